"""The drafter's interface: one next token for each of many sequences, in one forward.

The caller always gives the whole sequence. The drafter finds what its own cache already holds of
it, so going back after a rejected draft needs no call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class DraftJob:
    """Draft the token that follows `tokens`: all that is committed, then all drafted so far."""

    key: int
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class Proposal:
    """The most likely next token, and what the rejection predictor wants to know about it."""

    token: int
    confidence: float  # its probability
    entropy: float  # of the distribution, in nats
    margin: float  # its probability less the runner-up's
    spread: float  # standard deviation of the logits


class Drafter(Protocol):
    max_model_len: int  # tokens of the longest sequence that it can draft behind

    def open(self, key: int) -> None:
        """Reserve room for a sequence. Raises Overloaded if all of it is taken."""

    def step(self, jobs: Sequence[DraftJob]) -> list[Proposal]:
        """One next token for each job, in their order; each key at most once."""

    def close(self, key: int) -> None:
        """Free the room; closing an unknown key does nothing."""
