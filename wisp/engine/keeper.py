"""The estimator of a running server: known from before or profiled now, and saved for later."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from wisp.engine.profiling import profile
from wisp.estimator.base import DRIFT_ALARM
from wisp.estimator.step_time import StepTimeEstimator
from wisp.estimator.store import Key, load, save
from wisp.verifier.base import Verifier

log = logging.getLogger(__name__)

# How often what was learned is saved. Chosen: a server that is killed loses five minutes of it.
_SAVE_PERIOD_S = 300.0
# An estimator that knows fewer steps is not kept. Chosen: as many as it takes to leave its prior,
# below which the next start had better profile.
_MIN_STEPS = 32
# An alarm is over when the drift has fallen below this. Chosen: half of what raises it, so that one
# change is told once.
_ALL_CLEAR = 0.5 * DRIFT_ALARM


class Keeper:
    """Owns the estimator's file, if it has one. Whoever steps calls `rest` between two steps."""

    def __init__(
        self,
        estimator: StepTimeEstimator,
        folder: Path | None,
        key: Key,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.estimator = estimator
        self._folder = folder
        self._key = key
        self._clock = clock
        self._saved_s = clock()
        self._num_saved = estimator.num_observed
        self._alarmed = False

    def rest(self) -> None:
        self._heed_drift()
        if self._clock() - self._saved_s > _SAVE_PERIOD_S:
            self.save()

    def save(self) -> None:
        """Never raises: a server that cannot save starts cold the next time, that is all."""
        self._saved_s = self._clock()
        number = self.estimator.num_observed
        if self._folder is None or number < _MIN_STEPS or number == self._num_saved:
            return
        try:
            log.debug("step times saved in %s", save(self.estimator, self._folder, self._key))
        except OSError as error:
            log.warning("the step times cannot be saved in %s: %s", self._folder, error)
        else:
            self._num_saved = number

    def _heed_drift(self) -> None:
        drift = self.estimator.drift
        if drift > DRIFT_ALARM and not self._alarmed:
            log.warning("steps take other times than they did (drift %.1f): learning anew", drift)
        self._alarmed = drift > (_ALL_CLEAR if self._alarmed else DRIFT_ALARM)


def keep(
    target: Verifier,
    folder: Path | None,
    key: Key,
    *,
    profile_s: float,
    max_step_tokens: int,
    max_window: int,
) -> Keeper:
    """What was saved of this target; else a profile of it, of at most `profile_s` (0: none)."""
    if folder and (known := load(folder, key)):
        log.info("step times of %s are known from %d steps", key.model, known.num_observed)
        return Keeper(known, folder, key)
    keeper = Keeper(StepTimeEstimator(), folder, key)
    if profile_s > 0:
        log.info("profiling %s for %.0f s", key.model, profile_s)
        try:
            found = profile(
                target,
                max_step_tokens=max_step_tokens,
                max_window=max_window,
                budget_s=profile_s,
                progress=_Progress(),
            )
        except Exception:  # steps that no user asks for, such as the largest, may be too much
            log.exception("the profile failed: the estimator learns from users' steps alone")
        else:
            keeper.estimator.fit(found)
            keeper.save()
    return keeper


class _Progress:
    """A line in the log for every fifth of the time."""

    def __init__(self) -> None:
        self._next = 0.2

    def __call__(self, share: float, num_steps: int) -> None:
        if share >= self._next:
            log.info("profile: %.0f %%, %d steps", 100 * share, num_steps)
            self._next = share + 0.2
