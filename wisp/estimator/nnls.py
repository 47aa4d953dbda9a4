"""Non-negative least squares from normal equations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TOLERANCE = 1e-9  # of the gradient, against the largest entry of the target


def nnls(gram: Floats, target: Floats, start: Floats) -> Floats:
    """The x >= 0 that minimises x'Gx/2 - x'h, for G `gram` [m, m] positive definite, h [m].

    The active set method of Lawson and Hanson (Solving Least Squares Problems, 1974, ch. 23),
    started from `start`'s set of positive weights: near the solution it takes a round or two.
    """
    weights = np.maximum(start, 0.0)
    free = weights > 0.0
    least = _TOLERANCE * float(np.abs(target).max(initial=0.0))
    for _ in range(4 * len(target)):  # it ends long before; rounding alone could make it circle
        weights, free = _descend(gram, target, weights, free)
        gradient = target - gram @ weights
        gradient[free] = -np.inf
        best = int(gradient.argmax())
        if gradient[best] <= least:
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
