"""Weights that follow the steps: sufficient statistics that fade, solved again now and then."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from wisp.estimator.base import StepShape
from wisp.estimator.basis import NUM_COLUMNS, PRIOR, STEPS, columns
from wisp.estimator.nnls import nnls

Floats = NDArray[np.float64]
Observation = tuple[StepShape, float]  # a step and its time in seconds

MEMORY = 500.0  # steps: how many count, as a new step makes all before it fade
_HOLD = 1.0  # steps of its own that each weight is worth against new evidence
_MIN_ENERGY = 1e-6  # of a column that was never seen: its weight stays where it is
_SPARSE = 3e-3  # penalty of a tile's step, in units of the noise: it appears where the data pay
_MAX_NOISE = 0.1
_SAME_SPEED = 0.1  # below it a change is left to the fit
_NUM_REWEIGHTS = 6


class FitState(Struct, frozen=True):
    weights: list[float]
    num_steps: int
    weight: float
    gram: list[list[float]]
    target: list[float]
    energy: list[float]


class Fit:
    """min over x >= 0 of sum of faded w * (phi(step) x / time - 1)^2 + hold * |x - x_before|^2.

    The error is relative, as the deadlines of small steps are as dear as those of large ones. The
    last term holds what the recent steps say nothing of: it keeps what the profile taught of large
    batches through a night of small ones. If the whole target became faster or slower, what is
    held is scaled with it.
    """

    def __init__(self) -> None:
        self.weights = PRIOR.copy()  # [NUM_COLUMNS], ms per unit
        self.num_steps = 0
        self._weight = 0.0  # steps, faded
        self._gram = np.zeros((NUM_COLUMNS, NUM_COLUMNS))
        self._target = np.zeros(NUM_COLUMNS)
        self._energy = np.zeros(NUM_COLUMNS)  # of each column, summed over all steps ever

    def add(self, shape: StepShape, time_s: float) -> None:
        row = columns(shape)
        row *= 1e-3 / time_s
        kept = 1.0 - 1.0 / MEMORY
        self._weight = kept * self._weight + 1.0
        self._gram *= kept
        self._gram += row[:, None] * row
        self._target *= kept
        self._target += row
        self._energy += row * row
        self.num_steps += 1

    def add_all(self, observations: Sequence[Observation]) -> None:
        """Start anew from a profile: all steps count alike, outliers less (Huber's weights)."""
        rows = np.array([columns(shape) * 1e-3 / time_s for shape, time_s in observations])
        self.num_steps = len(rows)
        self._energy = (rows * rows).sum(axis=0)
        shares = np.ones(len(rows))
        scale = min(1.0, MEMORY / len(rows))
        self.weights = PRIOR.copy()
        for _ in range(_NUM_REWEIGHTS):
            self._weight = scale * float(shares.sum())
            self._gram = scale * (rows * shares[:, None]).T @ rows
            self._target = scale * shares @ rows
            self.solve()
            errors = np.abs(rows @ self.weights - 1.0)
            typical = 1.5 * float(np.median(errors)) + 1e-3
            shares = np.minimum(1.0, typical / np.maximum(errors, 1e-9))

    def solve(self) -> None:
        """Of the tiles' steps the absolute size is penalised, as a lasso does, by the noise."""
        held = self.weights * self._speed()
        energy = self._energy / max(1, self.num_steps)
        hold = _HOLD * np.maximum(energy, _MIN_ENERGY * max(1e-12, float(energy.max())))
        target = self._target + hold * held
        target[STEPS] -= _SPARSE * self._noise() * self._target[0]
        self.weights = nnls(self._gram + np.diag(hold), target, held)

    def forget(self, num_steps: float) -> None:
        """Let all that was seen count as so many steps at most."""
        share = min(1.0, num_steps / max(1.0, self._weight))
        self._weight *= share
        self._gram *= share
        self._target *= share

    def _noise(self) -> float:
        """The root mean square of the relative error: sum of (phi x / time - 1)^2, by parts."""
        square = float(self.weights @ self._gram @ self.weights - 2 * self.weights @ self._target)
        mean = max(0.0, square + self._weight) / max(1.0, self._weight)
        return min(_MAX_NOISE, math.sqrt(mean))

    def _speed(self) -> float:
        """How much longer all steps take than the weights say; 1.0 if about as long.

        The s that minimises the sum of (s * phi x / time - 1)^2, which is x'h / x'Gx.
        """
        square = float(self.weights @ self._gram @ self.weights)
        if square <= 0.0:
            return 1.0
        speed = float(self.weights @ self._target) / square
        return 1.0 if abs(speed - 1.0) < _SAME_SPEED else speed

    def state(self) -> FitState:
        return FitState(
            self.weights.tolist(),
            self.num_steps,
            self._weight,
            self._gram.tolist(),
            self._target.tolist(),
            self._energy.tolist(),
        )

    @classmethod
    def restore(cls, state: FitState) -> Fit:
        """Raises ValueError if it is not of as many terms, or has a negative weight."""
        fit = cls()
        fit.num_steps = state.num_steps
        fit.weights = _shaped(state.weights, NUM_COLUMNS)
        fit._weight = state.weight
        fit._gram = _shaped(state.gram, NUM_COLUMNS, NUM_COLUMNS)
        fit._target = _shaped(state.target, NUM_COLUMNS)
        fit._energy = _shaped(state.energy, NUM_COLUMNS)
        if fit.weights.min() < 0.0:
            raise ValueError("a weight is negative")
        return fit


def _shaped(values: Sequence[object], *shape: int) -> Floats:
    array = np.array(values, dtype=np.float64)  # raises ValueError on ragged rows
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{array.shape} numbers where {shape} are wanted")
    return array
