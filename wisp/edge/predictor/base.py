"""What a predictor is told, and what it must do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from wisp.edge.drafter.base import Proposal

# The recent acceptance of a session of which nothing is known yet. Chosen: it lies between the 0.5
# and the 0.85 of the pairs that the benchmarks assume, and ten labels correct most of it.
TYPICAL_ACCEPTANCE = 0.6


class Features(NamedTuple):
    """What is known of a candidate for a draft token when it is drafted."""

    proposal: Proposal
    temperature: float = 0.0  # the session's: the target's choice is the argmax or a sample
    recent: float = TYPICAL_ACCEPTANCE  # the session's share of accepted drafts, of late
    run: int = 0  # drafts of this epoch before it: none of them was rejected so far
    # After the last two tokens before it, this token followed the last time they stood in the
    # committed text (1), or another one did (-1), or they never did (0).
    repeats: int = 0
    rank: int = 0  # how many better candidates the target has not chosen, if it comes to this one


class Repeats:
    """What followed a pair of tokens the last time it stood in a text.

    A target that sees far copies more from its context than a small drafter does, so whether a
    draft token repeats what came before says what the drafter's own probabilities do not.
    """

    def __init__(self, text: Iterable[int]) -> None:
        self._followers: dict[tuple[int, int], int] = {}
        self._last = (-1, -1)
        self.extend(text)

    def extend(self, text: Iterable[int]) -> None:
        for token in text:
            self._followers[self._last] = token
            self._last = (self._last[1], token)

    def agree(self, before: Sequence[int], token: int) -> int:
        """1 if `token` followed the last two of `before`, -1 if another did, 0 if none ever."""
        follower = self._followers.get((before[-2], before[-1])) if len(before) > 1 else None
        if follower is None:
            return 0
        return 1 if follower == token else -1


class Label(NamedTuple):
    """The target's word on one candidate: all tokens before it were chosen, no better one was."""

    features: Features
    accepted: bool


class Predictor(Protocol):
    @property
    def calibration_error(self) -> float:
        """Expected calibration error over recent labels, 0 to 1; NaN before the first."""

    def acceptance(self, features: Features) -> float:
        """P(the target chooses this token), given that it chose all before it and no candidate of
        its position that is better."""

    def learn(self, label: Label) -> None:
        """Take in one label; those of a session come in the order of their positions."""


class ConfidencePredictor:
    """The drafter's own probability, taken at its word; learns nothing."""

    @property
    def calibration_error(self) -> float:
        return math.nan

    def acceptance(self, features: Features) -> float:
        return features.proposal.confidence

    def learn(self, label: Label) -> None:
        pass
