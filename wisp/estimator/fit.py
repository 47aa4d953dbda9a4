"""Weights that follow the steps: sufficient statistics that fade, solved again now and then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from wisp.estimator.curve import NUM_COLUMNS, PRIOR, columns
from wisp.estimator.shape import StepShape

Floats = NDArray[np.float64]
Observation = tuple[StepShape, float]  # a step and its time in seconds

# Steps that count, as each new one makes all before it fade. Chosen: a minute or less of a busy
# server, and enough to determine every weight.
MEMORY = 500.0
# Steps of its own that the last value of each weight is worth against new evidence. Chosen: one
# is enough that a night of small batches does not unlearn large ones (tests/estimator).
_HOLD = 1.0
# Least energy of a column, as a share of the largest: a column that was never seen keeps its
# weight. Chosen: far below any column seen, far above rounding.
_MIN_ENERGY = 1e-6
# A relative change of speed below this is left to the fit. Chosen: above the noise of some steps.
_SAME_SPEED = 0.1
# Times that a profile is solved, with less weight on outliers each time. Chosen: a
# handful, as the weights move little by then.
_NUM_REWEIGHTS = 6
# Where the active set method stops: the gradient against the largest entry of the target. Chosen:
# above the rounding of sums of some thousands of squares.
_TOLERANCE = 1e-9


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
        held = self.weights * self._speed()
        energy = self._energy / max(1, self.num_steps)
        hold = _HOLD * np.maximum(energy, _MIN_ENERGY * max(1e-12, float(energy.max())))
        self.weights = nnls(self._gram + np.diag(hold), self._target + hold * held, held)

    def forget(self, num_steps: float) -> None:
        """Let all that was seen count as so many steps at most."""
        share = min(1.0, num_steps / max(1.0, self._weight))
        self._weight *= share
        self._gram *= share
        self._target *= share

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


def nnls(gram: Floats, target: Floats, start: Floats) -> Floats:
    """The x >= 0 that minimises x'Gx/2 - x'h, for G `gram` [m, m] positive definite, h [m].

    The active set method of Lawson and Hanson (Solving Least Squares Problems, 1974, ch. 23),
    started from `start`'s set of positive weights: near the solution it takes a round or two.
    """
    weights = np.maximum(start, 0.0)
    free = weights > 0.0
    tolerance = _TOLERANCE * float(np.abs(target).max(initial=0.0))
    for _ in range(4 * len(target)):  # it ends long before; rounding alone could make it circle
        weights, free = _descend(gram, target, weights, free)
        gradient = target - gram @ weights
        gradient[free] = -np.inf
        best = int(gradient.argmax())
        if gradient[best] <= tolerance:
            break
        free[best] = True
    return weights


def _descend(
    gram: Floats, target: Floats, weights: Floats, free: NDArray[np.bool_]
) -> tuple[Floats, NDArray[np.bool_]]:
    """To the minimum over the free weights; those that reach zero on the way are fixed there."""
    while free.any():
        rows = np.flatnonzero(free)
        goal = np.zeros_like(weights)
        goal[rows] = np.linalg.solve(gram[np.ix_(rows, rows)], target[rows])
        blocked = rows[goal[rows] <= 0.0]
        if not len(blocked):
            return goal, free
        way = weights[blocked] - goal[blocked]
        step = np.divide(weights[blocked], way, out=np.zeros_like(way), where=way > 0.0)
        weights = weights + step.min() * (goal - weights)
        weights[blocked[step.argmin()]] = 0.0
        free = free & (weights > 0.0)
    return np.zeros_like(weights), free
