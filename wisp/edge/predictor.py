"""The rejection predictor: from what the drafter saw to P(accepted | all before it were)."""

from __future__ import annotations

from typing import Protocol

from wisp.edge.drafter.base import Proposal


class Predictor(Protocol):
    def acceptance(self, proposal: Proposal) -> float:
        """P(the target chooses this token), given that it chose all before it."""


class ConfidencePredictor:
    """The drafter's own top-1 probability, taken at its word."""

    def acceptance(self, proposal: Proposal) -> float:
        return proposal.confidence
