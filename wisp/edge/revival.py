"""Starts a drafter anew whose engine has ended: soon at first, then later, and at last no more."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from wisp.edge.drafter.base import MortalDrafter
from wisp.metrics import EdgeMetrics

log = logging.getLogger(__name__)

# Before the first start; each further wait is twice as long. Chosen: the driver has taken back a
# dead process's memory by then.
FIRST_S = 1.0
# Deaths in a row after which it is given up. Chosen: seven waits and starts, some two minutes of
# waiting, outlast a driver that is reset or a neighbour that fills the card for a moment.
MAX_DEATHS = 8
# A drafter that was up for so long had nothing to do with the deaths before. Chosen: what
# Kubernetes asks of a container before it forgets its crashes.
SOUND_S = 600.0


class Revival:
    """`restart` and `sleep` are awaited; `clock` gives seconds."""

    def __init__(
        self,
        drafter: MortalDrafter,
        restart: Callable[[], Awaitable[None]],
        metrics: EdgeMetrics,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._drafter = drafter
        self._restart = restart
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._num_deaths = 0  # in a row
        self._up_s = clock()  # since when it has drafted, if it does
        self.given_up = False
        metrics.drafter_up.set_function(lambda: drafter.ended is None)

    @property
    def due(self) -> bool:
        return self._drafter.ended is not None and not self.given_up

    async def bring_back(self) -> None:
        """Until it drafts again, or is given up."""
        if self._clock() - self._up_s >= SOUND_S:
            self._num_deaths = 0
        while why := self._drafter.ended:
            self._num_deaths += 1
            if self._num_deaths >= MAX_DEATHS:
                self.given_up = True
                log.critical(
                    "there are no drafts any more until wisp-edge is started again: %s, for the "
                    "%dth time in a row",
                    why,
                    self._num_deaths,
                )
                return
            wait_s = FIRST_S * 2.0 ** (self._num_deaths - 1)
            log.error("there are no drafts: %s; it is started again in %g s", why, wait_s)
            await self._sleep(wait_s)
            try:
                await self._restart()
            except Exception:  # whatever it was, the drafter knows why it has ended
                log.debug("the drafter cannot start", exc_info=True)
        self._up_s = self._clock()
        self._metrics.drafter_restarts.inc()
        log.warning("there are drafts again: the drafter has started")
