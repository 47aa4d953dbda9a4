"""How much of a device drafting may take: rests on a low battery, and a share of the time."""

from __future__ import annotations

import logging
from collections.abc import Callable

import psutil

from wisp.config import PowerSettings
from wisp.edge.stream import MIN_CHANCE
from wisp.tls import host_of, is_loopback

log = logging.getLogger(__name__)

Battery = Callable[[], float | None]
"""The battery's charge as a share while the device runs on it; None while it does not."""

# Between two looks at the battery. Chosen: a charge of hours changes by less than a percent.
LOOK_S = 30.0

# The least chance to be used of a token that is drafted on the target's own cores, and puts a step
# off. Chosen: a draft of the real pair takes a sixth of the time in which its target commits a
# token where the cores are free, and more where they are not (docs/measurements/smollm2.md).
SHARED_MIN_CHANCE = 0.25


def on_this_machine(servers: str) -> bool:
    """Whether all of these addresses, with commas between, are of this machine."""
    return all(is_loopback(host_of(address.strip())) for address in servers.split(","))


def battery() -> float | None:
    """Of this device, as its system tells of it."""
    look = getattr(psutil, "sensors_battery", None)  # where the system has none, nor has psutil
    found = look() if look else None
    if found is None or found.power_plugged is not False:  # None: the system cannot tell
        return None
    return float(found.percent) / 100.0


class Power:
    """Says when drafting may go on. It reads no clock: times are arguments, of one clock."""

    def __init__(
        self,
        settings: PowerSettings,
        battery: Battery = battery,
        *,
        shares_cores: bool = False,
    ) -> None:
        """`shares_cores`: drafts are computed on the cores that the target is computed on."""
        usual = SHARED_MIN_CHANCE if shares_cores else MIN_CHANCE
        self.min_chance = settings.min_chance or usual
        self._min_battery = settings.min_battery
        self._paused = 1.0 / settings.max_share - 1.0  # seconds without drafts for each with
        self._battery = battery
        self._looked_s: float | None = None
        self._ready_s = 0.0
        self.resting = False

    def rests(self, now: float) -> bool:
        """Whether the battery is too low to draft; looks at it now and then."""
        if self._min_battery == 0.0:
            return False
        if self._looked_s is None or now - self._looked_s >= LOOK_S:
            self._looked_s = now
            charge = self._battery()
            resting = charge is not None and charge < self._min_battery
            if resting != self.resting:
                log.info("drafting %s: the battery decides", "rests" if resting else "goes on")
            self.resting = resting
        return self.resting

    def spent(self, time_s: float, now: float) -> None:
        """The drafter has just computed for so long."""
        self._ready_s = now + self._paused * time_s

    def pause_s(self, now: float) -> float:
        """How long the drafter must not compute yet."""
        return max(0.0, self._ready_s - now)
