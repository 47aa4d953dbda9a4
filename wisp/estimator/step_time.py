"""The verification time estimator: non-negative least squares, learning from every step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from wisp.estimator.base import DRIFT_ALARM, Estimator
from wisp.estimator.curve import Curve, curve_of
from wisp.estimator.fit import Fit, FitState, Observation
from wisp.estimator.shape import StepShape
from wisp.estimator.spread import Spread, SpreadState

# Steps before residuals tell something of the target rather than of the prior. Chosen: a few of
# different sizes.
_WARM = 8
# Steps until which the fit is solved again after each. Chosen: as many as it has terms, about.
_ESTABLISHED = 32
# Steps between two solutions. Chosen: the fit moves little in fewer, and solving
# costs more than adding.
_PERIOD = 32
# The same while it learns another target, after an alarm. Chosen: an eighth of it.
_CALM_PERIOD = 4
# Mean errors: what lies farther out counts as lying there. Chosen: 3, the usual bound of outliers.
_TRUSTED = 3.0
# Least relative residual that is cut off so. Chosen: where steps hardly differ, none is an outlier.
_MIN_CLIP = 0.1
# Most that a step is cut upwards if it took less time than expected, relative. Chosen: half, since
# no hiccup makes a step faster, and a target twice as fast is seen within a few steps all the same.
_MAX_FASTER = 0.5
# Steps that all the past counts as, once it is known to be of another target. Chosen: less than
# one, so that the first new step outweighs it.
_AFTER_ALARM = 0.1
# Steps after an alarm in which it is learned anew, and no other alarm is heard. Chosen: three
# memories of the recent error (`wisp.estimator.spread`).
_CALM = 96
# Parts of a profile, each of which is predicted from the others. Chosen: 5, as is usual.
_NUM_FOLDS = 5


class State(Struct, frozen=True):
    """What is kept on disk."""

    fit: FitState
    spread: SpreadState


class StepTimeEstimator(Estimator):
    """A fit, the curve of its last solution, and how far the steps were from it."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._fit = Fit()
        self._spread = Spread()
        self._curve = curve_of(self._fit.weights)
        self._countdown = 0  # steps until it is solved again
        self._calm = 0  # steps until an alarm is heard again

    @property
    def num_observed(self) -> int:
        return self._fit.num_steps

    @property
    def curve(self) -> Curve:
        return self._curve

    @property
    def margin(self) -> float:
        return self._spread.margin

    @property
    def drift(self) -> float:
        """Above `DRIFT_ALARM` the past is mostly forgotten."""
        return self._spread.drift

    def observe(self, shape: StepShape, time_s: float) -> None:
        if not _usable(time_s):
            return
        predicted_s = self._curve.time_s(shape)
        residual = time_s / predicted_s - 1.0
        if self._fit.num_steps >= _WARM:
            self._spread.note(residual)
        if self._fit.num_steps >= _ESTABLISHED:
            self._heed_drift()
            if self._calm <= 0:
                time_s = predicted_s * (1.0 + self._clipped(residual))
        self._fit.add(shape, time_s)
        self._countdown -= 1
        if self._countdown <= 0:
            self._solve()

    def fit(self, observations: Sequence[Observation]) -> None:
        """Start anew from a profile; what was learned before is gone."""
        self._start()
        usable = [pair for pair in observations if _usable(pair[1])]
        if usable:
            self._fit.add_all(usable)
            self._curve = curve_of(self._fit.weights)
            self._spread.note_all(held_out(usable))

    def state(self) -> State:
        return State(self._fit.state(), self._spread.state())

    @classmethod
    def restore(cls, state: State) -> StepTimeEstimator:
        """Raises ValueError if the state is not of this version's terms."""
        estimator = cls()
        estimator._fit = Fit.restore(state.fit)
        estimator._spread = Spread.restore(state.spread)
        estimator._curve = curve_of(estimator._fit.weights)
        return estimator

    def _clipped(self, residual: float) -> float:
        bound = max(_MIN_CLIP, _TRUSTED * self._spread.recent)
        return min(bound, max(-min(_MAX_FASTER, bound), residual))

    def _heed_drift(self) -> None:
        self._calm -= 1
        if self._calm <= 0 and self._spread.drift > DRIFT_ALARM:
            self._fit.forget(_AFTER_ALARM)
            self._calm, self._countdown = _CALM, 0

    def _solve(self) -> None:
        self._fit.solve()
        self._curve = curve_of(self._fit.weights)
        if self._fit.num_steps <= _ESTABLISHED:
            self._countdown = 1
        else:
            self._countdown = _CALM_PERIOD if self._calm > 0 else _PERIOD


def held_out(observations: Sequence[Observation]) -> list[float]:
    """The residual of each step against a fit that has not seen its shape (cross-validation)."""
    shapes = sorted({shape for shape, _ in observations})
    if len(shapes) < _NUM_FOLDS:
        return []
    order = np.random.default_rng(0).permutation(len(shapes))
    fold_of = dict(zip(shapes, (order % _NUM_FOLDS).tolist(), strict=True))
    residuals = []
    for fold in range(_NUM_FOLDS):
        fit = Fit()
        fit.add_all([pair for pair in observations if fold_of[pair[0]] != fold])
        curve = curve_of(fit.weights)
        held = [pair for pair in observations if fold_of[pair[0]] == fold]
        residuals += [time_s / curve.time_s(shape) - 1.0 for shape, time_s in held]
    mixed: list[float] = np.random.default_rng(0).permutation(residuals).tolist()
    return mixed


def _usable(time_s: float) -> bool:
    return math.isfinite(time_s) and time_s > 0.0
