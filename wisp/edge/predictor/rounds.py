"""Logged rounds: what verdicts said of drafts, as JSON lines, to train a predictor from.

A line of kind `pair` says to which target and draft the lines of kind `label` behind it belong. Of
the text they hold nothing: no tokens, only what the predictor is told of one, and its fate.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from wisp.edge.drafter.base import Proposal
from wisp.edge.predictor.base import Features, Label, Predictor

log = logging.getLogger(__name__)

_Share = Annotated[float, Meta(ge=0, le=1)]
_Positive = Annotated[float, Meta(ge=0)]


class ModelPair(Struct, frozen=True, tag="pair", tag_field="kind"):
    target: str
    draft: str


class _Line(Struct, frozen=True, tag="label", tag_field="kind"):
    confidence: _Share
    entropy: _Positive
    margin: _Share
    spread: _Positive
    temperature: _Positive
    recent: _Share
    run: Annotated[int, Meta(ge=0)]
    repeats: Annotated[int, Meta(ge=-1, le=1)]
    accepted: bool
    likelihood: _Share | None = None  # None: as the confidence, and the next as the entropy
    plain_entropy: _Positive | None = None
    rank: Annotated[int, Meta(ge=0)] = 0


_decoder = msgspec.json.Decoder(ModelPair | _Line)


class RoundLog:
    """Appends to a file until it has `max_bytes`; a failure to write ends the log, not the edge.

    Raises OSError if the file cannot be opened.
    """

    def __init__(self, path: Path, draft: str, max_bytes: int) -> None:
        self._draft = draft
        self._max_bytes = max_bytes
        self._file = path.open("ab+")
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read() != b"\n":  # an edge was killed while it wrote
                self._file.write(b"\n")
        self._full = False

    def begin(self, target: str) -> None:
        """Labels from now on are of this target."""
        self._write(ModelPair(target, self._draft))

    def add(self, label: Label) -> None:
        proposal, temperature, recent, run, repeats, rank = label.features
        line = _Line(
            proposal.confidence,
            proposal.entropy,
            proposal.margin,
            proposal.spread,
            temperature,
            recent,
            run,
            repeats,
            label.accepted,
            proposal.likelihood,
            proposal.plain_entropy,
            rank,
        )
        self._write(line)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            log.warning("the last rounds are not in the log: %s", error)

    def _write(self, line: ModelPair | _Line) -> None:
        if self._full:
            return
        content = msgspec.json.encode(line) + b"\n"
        try:
            if self._file.tell() + len(content) <= self._max_bytes:
                self._file.write(content)
                return
            log.warning("%s is full: no more rounds are logged", self._file.name)
        except OSError as error:
            log.warning("no more rounds are logged: %s", error)
        self._full = True


class LoggedPredictor:
    """A predictor all of whose labels are written down. Implements `Predictor`."""

    def __init__(self, predictor: Predictor, rounds: RoundLog) -> None:
        self._predictor = predictor
        self._rounds = rounds

    @property
    def calibration_error(self) -> float:
        return self._predictor.calibration_error

    def acceptance(self, features: Features) -> float:
        return self._predictor.acceptance(features)

    def learn(self, label: Label) -> None:
        self._rounds.add(label)
        self._predictor.learn(label)


@dataclass
class Rounds:
    """What logs hold."""

    labels: dict[ModelPair, list[Label]] = field(default_factory=dict)
    num_unreadable: int = 0  # lines

    def read(self, lines: Iterable[bytes]) -> None:
        """One log more; labels before its first pair belong to nobody and are unreadable, too."""
        of_pair: list[Label] | None = None
        for line in lines:
            try:
                found = _decoder.decode(line)
            except ValueError:  # msgspec's errors are
                self.num_unreadable += 1
                continue
            if isinstance(found, ModelPair):
                of_pair = self.labels.setdefault(found, [])
            elif of_pair is None:
                self.num_unreadable += 1
            else:
                of_pair.append(_label(found))


def _label(line: _Line) -> Label:
    proposal = Proposal(
        -1,
        line.confidence,
        line.entropy,
        line.margin,
        line.spread,
        line.likelihood,
        line.plain_entropy,
    )
    features = Features(proposal, line.temperature, line.recent, line.run, line.repeats, line.rank)
    return Label(features, line.accepted)
