"""Virtual time, for tests and the simulator: it passes when somebody says so."""

from __future__ import annotations


class VirtualClock:
    """Stands in for `time.monotonic`; whoever lets time pass sets `now`, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now
