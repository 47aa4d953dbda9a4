"""The text of a session without a model: where a draft token is right, and what its drafter sees.

The target's choice at a position is the position itself, so any two positions differ, and nothing
repeats: neither `wisp.core.ngram` nor `wisp.edge.predictor.base` finds anything in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wisp.edge.drafter.base import Proposal
from wisp.testing.drafter import COVERAGE

COLUMNS = ("right", "confidence", "entropy", "margin", "spread")  # of a recording
WRONG = -1  # the token of a draft that the target does not choose; alternatives': below it


class Text(NamedTuple):
    """One session's, by output position."""

    right: list[bool]  # had all before it been right
    confidence: list[float]
    entropy: list[float] | None = None
    margin: list[float] | None = None
    spread: list[float] | None = None
    # Where it is wrong: which alternative is right, from 1; 0: none.
    right_alternative: list[int] | None = None
    coverage: tuple[float, ...] = ()  # how often each is, of the wrong ones

    def proposal(self, position: int, index: int) -> Proposal:
        """At `position` of the whole sequence, `index` of the output."""
        token = position if self.right[index] else WRONG
        confidence = self.confidence[index]
        seen = (0.0, 0.0, 0.0)
        if self.entropy is not None and self.margin is not None and self.spread is not None:
            seen = (self.entropy[index], self.margin[index], self.spread[index])
        return Proposal(token, confidence, *seen, alternatives=self._alternatives(position, index))

    def _alternatives(self, position: int, index: int) -> tuple[Proposal, ...]:
        if self.right_alternative is None:
            return ()
        found, left = [], 1.0
        for rank, share in enumerate(self.coverage, 1):
            is_right = not self.right[index] and self.right_alternative[index] == rank
            found.append(Proposal(position if is_right else WRONG - rank, share / left, 0, 0, 0))
            left -= share
        return tuple(found)


def draw_alternatives(
    chance: np.random.Generator, num_tokens: int, coverage: tuple[float, ...]
) -> list[int]:
    """`Text.right_alternative`."""
    drawn = np.searchsorted(np.cumsum(coverage), chance.random(num_tokens), side="right") + 1
    return [rank if rank <= len(coverage) else 0 for rank in drawn.tolist()]


class Texts(Protocol):
    temperature: float  # of the sessions

    def make(self, num_tokens: int, seed: tuple[int, ...]) -> Text:
        """The same for the same seed."""

    def __hash__(self) -> int: ...


class BetaTexts:
    """P(right) of each position is drawn from a beta distribution with the given mean.

    The drafter is confident of exactly that (a calibrated predictor), but for normal noise on its
    logit. With `spread` 1.5 confidence tells right from wrong with an AUC of about 0.85 at a mean
    of 0.7, as that of the bundled pair does. `patch` is the mean length of a stretch of positions
    with one P(right); 1 makes them independent.
    """

    temperature = 0.0

    def __init__(
        self,
        acceptance: float,
        *,
        spread: float = 1.5,
        noise: float = 0.3,
        patch: float = 1.0,
        coverage: tuple[float, ...] = COVERAGE,
    ) -> None:
        self.acceptance = acceptance
        self._coverage = coverage
        self._spread = spread
        self._noise = noise
        self._patch = patch

    def make(self, num_tokens: int, seed: tuple[int, ...]) -> Text:
        chance = np.random.default_rng(seed)
        a, b = self.acceptance * self._spread, (1.0 - self.acceptance) * self._spread
        patches = np.cumsum(chance.random(num_tokens) < 1.0 / self._patch)
        odds = np.clip(chance.beta(a, b, num_tokens + 1)[patches], 1e-3, 1.0 - 1e-3)
        right = chance.random(num_tokens) < odds
        logit = np.log(odds / (1.0 - odds)) + self._noise * chance.standard_normal(num_tokens)
        confidence: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-logit))
        others = draw_alternatives(chance, num_tokens, self._coverage)
        return Text(
            right.tolist(),
            confidence.tolist(),
            right_alternative=others,
            coverage=self._coverage,
        )


class RecordedTexts:
    """A real pair's texts, replayed: each session gets one of them from its start, and another
    behind it as long as its output is longer.

    Whether a draft token is right where it stands behind the target's own text is all that counts:
    behind a wrong one nothing is accepted, whatever the drafter goes on to see.
    """

    def __init__(
        self,
        path: Path,
        temperature: float | None = None,
        coverage: tuple[float, ...] = COVERAGE,
    ) -> None:
        """`temperature`: of the texts to take; None takes all. The columns are `COLUMNS`."""
        self._coverage = coverage
        with np.load(path) as file:
            columns = [file[name].astype(np.float64) for name in COLUMNS]
            ends, temperatures = file["ends"], file["temperatures"]
        starts = np.concatenate(([0], ends[:-1]))
        taken = [
            slice(start, end)
            for start, end, at in zip(starts, ends, temperatures, strict=True)
            if temperature is None or abs(at - temperature) < 1e-3
        ]
        if not taken:
            raise ValueError(f"{path} has no texts at temperature {temperature}")
        self._texts = [[column[part] for column in columns] for part in taken]
        self.temperature = temperature or 0.0
        self.acceptance = float(np.concatenate([text[0] for text in self._texts]).mean())

    def make(self, num_tokens: int, seed: tuple[int, ...]) -> Text:
        chance = np.random.default_rng(seed)
        parts: list[list[NDArray[np.float64]]] = []
        while sum(len(part[0]) for part in parts) < num_tokens:
            parts.append(self._texts[int(chance.integers(len(self._texts)))])
        right, *seen = (np.concatenate(column)[:num_tokens] for column in zip(*parts, strict=True))
        confidence, entropy, margin, spread = (column.tolist() for column in seen)
        others = draw_alternatives(chance, num_tokens, self._coverage)
        is_right = (right > 0.5).tolist()
        return Text(is_right, confidence, entropy, margin, spread, others, self._coverage)
