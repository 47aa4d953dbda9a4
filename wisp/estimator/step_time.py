"""The verification time estimator: non-negative least squares over tiles, learning from every step.

Two fits run side by side: one of shapes that tell the number of seats, and a coarse one for those
who ask without it. Each keeps its own spread, so the coarse one's upper bounds are wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from wisp.estimator.base import DRIFT_ALARM, StepShape
from wisp.estimator.basis import Curve
from wisp.estimator.fit import Fit, FitState, Observation
from wisp.estimator.shape import seats_of
from wisp.estimator.spread import Spread, SpreadState

_WARM = 8  # steps before residuals tell something of the target rather than of the prior
_ESTABLISHED = 32  # steps; until then it is solved again after each
_PERIOD = 32  # steps between two solutions
_CALM_PERIOD = 4
_TRUSTED = 3.0  # mean errors: what lies farther out counts as lying there
_MIN_CLIP = 0.1
_AFTER_ALARM = 0.1  # steps that all the past counts as, once it is known to be of another target
_CALM = 96  # steps after an alarm in which it is learned anew, and no other alarm is heard
_NUM_FOLDS = 5


class TrackState(Struct, frozen=True):
    fit: FitState
    spread: SpreadState


class State(Struct, frozen=True):
    coarse: TrackState
    fine: TrackState


class StepTimeEstimator:
    """Implements `wisp.estimator.base.Estimator`."""

    def __init__(self) -> None:
        self._coarse = _Track()  # without the number of seats
        self._fine = _Track()

    @property
    def num_observed(self) -> int:
        return self._coarse.fit.num_steps

    @property
    def drift(self) -> float:
        """Above `DRIFT_ALARM` the past is mostly forgotten."""
        return self._best().spread.drift

    @property
    def margin(self) -> float:
        """The upper bound, relative to the prediction, less 1."""
        return self._best().spread.margin

    def predict_s(self, shape: StepShape) -> float:
        track, shape = self._track(shape)
        return track.curve(shape)

    def upper_s(self, shape: StepShape) -> float:
        track, shape = self._track(shape)
        return (1.0 + track.spread.margin) * track.curve(shape)

    def observe(self, shape: StepShape, time_s: float) -> None:
        if not _usable(time_s):
            return
        self._coarse.observe(_without_seats(shape), time_s)
        if seats_of(shape) is not None:
            self._fine.observe(shape, time_s)

    def fit(self, observations: Sequence[Observation]) -> None:
        """Start anew from a profile; what was learned before is gone."""
        usable = [pair for pair in observations if _usable(pair[1])]
        self._coarse = _Track.fitted([(_without_seats(shape), time) for shape, time in usable])
        self._fine = _Track.fitted([pair for pair in usable if seats_of(pair[0]) is not None])

    def state(self) -> State:
        return State(self._coarse.state(), self._fine.state())

    @classmethod
    def restore(cls, state: State) -> StepTimeEstimator:
        """Raises ValueError if the state is not of this version's terms."""
        estimator = cls()
        estimator._coarse = _Track.restore(state.coarse)
        estimator._fine = _Track.restore(state.fine)
        return estimator

    def _track(self, shape: StepShape) -> tuple[_Track, StepShape]:
        track = self._coarse if seats_of(shape) is None else self._best()
        return track, _without_seats(shape) if track is self._coarse else shape

    def _best(self) -> _Track:
        known = min(_ESTABLISHED, self._coarse.fit.num_steps)
        return self._fine if self._fine.fit.num_steps >= known else self._coarse


class _Track:
    """A fit, the curve of its last solution, and how far the steps were from it."""

    def __init__(self) -> None:
        self.fit = Fit()
        self.spread = Spread()
        self.curve = Curve(self.fit.weights)
        self._countdown = 0
        self._calm = 0  # steps until an alarm is heard again

    @classmethod
    def fitted(cls, observations: Sequence[Observation]) -> _Track:
        track = cls()
        if observations:
            track.fit.add_all(observations)
            track.curve = Curve(track.fit.weights)
            track.spread.note_all(held_out(observations))
        return track

    def observe(self, shape: StepShape, time_s: float) -> None:
        predicted_s = self.curve(shape)
        residual = time_s / predicted_s - 1.0
        if self.fit.num_steps >= _WARM:
            self.spread.note(residual)
        if self.fit.num_steps >= _ESTABLISHED:
            self._heed_drift()
            if self._calm <= 0:
                time_s = predicted_s * (1.0 + self._clipped(residual))
        self.fit.add(shape, time_s)
        self._countdown -= 1
        if self._countdown <= 0:
            self._solve()

    def _clipped(self, residual: float) -> float:
        most = max(_MIN_CLIP, _TRUSTED * self.spread.recent)
        return min(most, max(-min(0.5, most), residual))

    def _heed_drift(self) -> None:
        self._calm -= 1
        if self._calm <= 0 and self.spread.drift > DRIFT_ALARM:
            self.fit.forget(_AFTER_ALARM)
            self._calm, self._countdown = _CALM, 0

    def _solve(self) -> None:
        self.fit.solve()
        self.curve = Curve(self.fit.weights)
        if self.fit.num_steps <= _ESTABLISHED:
            self._countdown = 1
        else:
            self._countdown = _CALM_PERIOD if self._calm > 0 else _PERIOD

    def state(self) -> TrackState:
        return TrackState(self.fit.state(), self.spread.state())

    @classmethod
    def restore(cls, state: TrackState) -> _Track:
        track = cls()
        track.fit = Fit.restore(state.fit)
        track.spread = Spread.restore(state.spread)
        track.curve = Curve(track.fit.weights)
        return track


def held_out(observations: Sequence[Observation]) -> list[float]:
    """The residual of each step against a fit that has not seen its shape (cross-validation)."""
    shapes = sorted({_key(shape) for shape, _ in observations})
    if len(shapes) < _NUM_FOLDS:
        return []
    order = np.random.default_rng(0).permutation(len(shapes))
    fold_of = dict(zip(shapes, (order % _NUM_FOLDS).tolist(), strict=True))
    residuals = []
    for fold in range(_NUM_FOLDS):
        fit = Fit()
        fit.add_all([pair for pair in observations if fold_of[_key(pair[0])] != fold])
        curve = Curve(fit.weights)
        held = [pair for pair in observations if fold_of[_key(pair[0])] == fold]
        residuals += [time_s / curve(shape) - 1.0 for shape, time_s in held]
    mixed: list[float] = np.random.default_rng(0).permutation(residuals).tolist()
    return mixed


def _key(shape: StepShape) -> tuple[float, ...]:
    return (*shape, seats_of(shape) or 0)


def _without_seats(shape: StepShape) -> StepShape:
    return StepShape(*shape)


def _usable(time_s: float) -> bool:
    return math.isfinite(time_s) and time_s > 0.0
