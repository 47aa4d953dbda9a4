"""The drafter's interface: one next token for each of many sequences, in one forward.

The caller always gives the whole sequence. The drafter finds what its own cache already holds of
it, so going back after a rejected draft needs no call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from wisp.core.request import Sampling

# Tokens that a drafter names for one position, the proposed one included. Measured: three
# alternatives hold the target's choice in 0.5 to 0.6 of the rejections, and each one more adds less
# than a tenth (docs/measurements/noise.md).
NUM_CANDIDATES = 4


@dataclass(slots=True)
class DraftJob:
    """Draft the token that follows `tokens`: all that is committed, then all drafted so far."""

    key: int
    tokens: Sequence[int]
    sampling: Sampling | None = None  # the target's, with the noise of its choices; None: argmax


@dataclass(frozen=True, slots=True)
class Proposal:
    """The likeliest next choice, and what the rejection predictor wants to know about it.

    The scores are logits + temperature * noise: the choice is their argmax, so at every temperature
    a proposal is the likeliest choice in the same sense as at temperature 0.
    """

    token: int
    confidence: float  # its share of softmax(scores)
    entropy: float  # of softmax(scores), in nats
    margin: float  # its share less the runner-up's
    spread: float  # standard deviation of the logits
    likelihood: float | None = None  # its share of softmax(logits); None: as its confidence
    plain_entropy: float | None = None  # of softmax(logits); None: as its entropy
    # What is likeliest if it is not this one, then if it is not that one either, ...: of each, the
    # shares are those of what is left without the better ones.
    alternatives: tuple[Proposal, ...] = ()


class Drafter(Protocol):
    max_model_len: int  # tokens of the longest sequence that it can draft behind
    vocab_size: int  # it can draft behind ids below this; the target's may be padded further
    max_branches: int  # jobs of one key in a step, beside one of each other key; 1: no forks

    def open(self, key: int) -> None:
        """Reserve room for a sequence. Raises Overloaded if all of it is taken."""

    def step(self, jobs: Sequence[DraftJob]) -> list[Proposal]:
        """One next token for each job, in their order.

        A key has several jobs where its drafts fork: at most `max_branches` - 1 of a step's jobs
        are of keys that have another one.
        """

    def close(self, key: int) -> None:
        """Free the room; closing an unknown key does nothing."""


@runtime_checkable
class MortalDrafter(Drafter, Protocol):
    """One that may end while its edge goes on, as its engine is a process of its own.

    Once it has ended, a step raises Unavailable. What is open stays so.
    """

    on_end: Callable[[], None]  # called in some thread when it has ended

    @property
    def ended(self) -> str | None:
        """Why it cannot draft; None: it can."""

    def restart(self) -> None:
        """Start what has ended. Raises ConfigError or Unavailable if that is in vain."""

    def shutdown(self) -> None:
        """End it for good, from any thread: a step or a start under way raises."""
