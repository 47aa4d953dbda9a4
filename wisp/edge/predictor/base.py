"""What a predictor is told, and what it must do."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from wisp.edge.drafter.base import Proposal

TYPICAL_ACCEPTANCE = 0.6  # of a session of which nothing is known yet


class Features(NamedTuple):
    """What is known of a draft token when it is drafted."""

    proposal: Proposal
    temperature: float = 0.0  # the session's: the target's choice is the argmax or a sample
    recent: float = TYPICAL_ACCEPTANCE  # the session's share of accepted drafts, of late
    run: int = 0  # drafts of this epoch before it: none of them was rejected so far
    # After the last two tokens before it, this token followed the last time they stood in the
    # committed text (1), or another one did (-1), or they never did (0).
    repeats: int = 0


class Label(NamedTuple):
    """The target's word on one draft token, all tokens before which it had chosen."""

    features: Features
    accepted: bool


class Predictor(Protocol):
    @property
    def calibration_error(self) -> float:
        """Expected calibration error over recent labels, 0 to 1; NaN before the first."""

    def acceptance(self, features: Features) -> float:
        """P(the target chooses this token), given that it chose all before it."""

    def learn(self, label: Label) -> None:
        """Take in one label; those of a session come in the order of their positions."""


class ConfidencePredictor:
    """The drafter's own top-1 probability, taken at its word; learns nothing."""

    @property
    def calibration_error(self) -> float:
        return math.nan

    def acceptance(self, features: Features) -> float:
        return features.proposal.confidence

    def learn(self, label: Label) -> None:
        pass
