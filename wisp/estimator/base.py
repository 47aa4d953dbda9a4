"""What a verification step costs: the interface between what learns it and what asks for it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from wisp.estimator.curve import Curve
from wisp.estimator.shape import StepShape

# Above so many times the long-run error the target counts as changed. Chosen: recent errors of a
# target that stays the same keep below it in tests/estimator, those of one 1.5 times slower do not.
DRIFT_ALARM = 3.0


class Estimator(ABC):
    """What steps take, in seconds. Pure: no I/O, no clock; it learns in `observe` alone."""

    @property
    @abstractmethod
    def curve(self) -> Curve:
        """The expected time of every step, as it is known now. It never changes; `observe` may
        put another in its place."""

    @property
    @abstractmethod
    def margin(self) -> float:
        """95 % of steps take at most (1 + margin) times what `curve` says."""

    @property
    def drift(self) -> float:
        """Recent error against the long-run one: about 1 while the target stays the same, above
        `DRIFT_ALARM` once it has changed."""
        return 1.0

    @abstractmethod
    def observe(self, shape: StepShape, time_s: float) -> None:
        """Learn from a measured step.

        `shape`: of the step as it was taken, drafts and prefill included. `time_s`: from when the
        target began to when the outcomes were known; what is no positive number is ignored.
        """

    def predict_s(self, shape: StepShape) -> float:
        """The expected time of a step."""
        return self.curve.time_s(shape)

    def upper_s(self, shape: StepShape) -> float:
        """A time that 95 % of such steps do not exceed; deadlines are checked with it."""
        return (1.0 + self.margin) * self.curve.time_s(shape)
