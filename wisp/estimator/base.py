"""What a verification step costs: the interface between what learns it and what asks for it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

DRIFT_ALARM = 3.0


class StepShape(NamedTuple):
    """What the time of a step depends on."""

    num_tokens: int  # new tokens of all seats, drafts and prefill included
    num_context: int  # tokens whose KV is read: the sum of the seats' lengths
    prefill_product: float  # sum over prefill chunks of (new tokens * length)


class Estimator(Protocol):
    """Pure: no I/O, no clock. Times are seconds."""

    @property
    def drift(self) -> float:
        """Recent error against the long-run one; above `DRIFT_ALARM` the target has changed."""

    def predict_s(self, shape: StepShape) -> float:
        """The expected time of a step."""

    def upper_s(self, shape: StepShape) -> float:
        """A time that 95 % of such steps do not exceed; deadlines are checked with it."""

    def observe(self, shape: StepShape, time_s: float) -> None:
        """Learn from a measured step."""
