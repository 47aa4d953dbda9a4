"""How much of a device drafting may take: rests on a low battery, and a share of the time, which
falls while the device is hot."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import psutil

from wisp.config import PowerSettings
from wisp.edge.stream import MIN_CHANCE
from wisp.tls import host_of, is_loopback

log = logging.getLogger(__name__)

Battery = Callable[[], float | None]
"""The battery's charge as a share while the device runs on it; None while it does not."""

Heat = Callable[[], float | None]
"""The device's temperature in degrees Celsius; None where it tells of none."""

# Between two looks at the battery. Chosen: a charge of hours changes by less than a percent.
LOOK_S = 30.0

# Between two looks at the temperature. Chosen: a device takes tens of seconds to warm up.
FEEL_S = 10.0
# It has to fall by so many degrees below the limit. Chosen: more than a sensor's last digits, and
# less than what a device loses within minutes.
COOLER = 3.0
# The least that heat leaves of the usual share. Chosen: an edge that drafts a sixteenth of the time
# is nearly idle, and one that never does would not learn that it may again.
MIN_SHARE = 1 / 16

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
    try:
        found = look() if look else None
    except Exception:  # of what kind depends on the system: no request may end with it
        log.debug("the battery cannot be looked at", exc_info=True)
        return None
    if found is None or found.power_plugged is not False:  # None: the system cannot tell
        return None
    return float(found.percent) / 100.0


def temperature(folder: Path = Path("/sys/class/thermal")) -> float | None:
    """Of the hottest zone that the system tells of, in degrees Celsius; None: of none."""
    found = []
    for zone in folder.glob("thermal_zone*/temp"):
        try:
            found.append(int(zone.read_text()) / 1000)  # Linux gives thousandths: its documentation
        except (OSError, ValueError):
            continue
    return max(found, default=None)


class Power:
    """Says when drafting may go on. It reads no clock: times are arguments, of one clock."""

    def __init__(
        self,
        settings: PowerSettings,
        battery: Battery = battery,
        heat: Heat = temperature,
        *,
        shares_cores: bool = False,
    ) -> None:
        """`shares_cores`: drafts are computed on the cores that the target is computed on."""
        usual = SHARED_MIN_CHANCE if shares_cores else MIN_CHANCE
        self.min_chance = settings.min_chance or usual
        self._min_battery = settings.min_battery
        self._max_share = settings.max_share
        self._max_celsius = settings.max_celsius
        self.share = settings.max_share
        """Of the time in which the drafter may compute now."""
        self._battery = battery
        self._heat = heat
        self._looked_s: float | None = None
        self._felt_s: float | None = None
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
        if self._max_celsius is not None:
            self._feel(self._max_celsius, now)
        self._ready_s = now + (1.0 / self.share - 1.0) * time_s

    def _feel(self, max_celsius: float, now: float) -> None:
        """Halve the share while it is too hot, and double it again once it has cooled down."""
        if self._felt_s is not None and now - self._felt_s < FEEL_S:
            return
        self._felt_s, before = now, self.share
        celsius = self._heat()
        if celsius is not None and celsius > max_celsius:
            self.share = max(MIN_SHARE * self._max_share, self.share / 2)
        elif celsius is None or celsius <= max_celsius - COOLER:
            self.share = min(self._max_share, 2 * self.share)
        if self.share != before:
            log.info("drafting may take %.0f %% of the time: %s C", 100 * self.share, celsius)

    def pause_s(self, now: float) -> float:
        """How long the drafter must not compute yet."""
        return max(0.0, self._ready_s - now)
