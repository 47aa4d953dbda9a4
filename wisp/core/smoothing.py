"""Averages of what changes: the newest counts most."""

from __future__ import annotations


def smoothed(old: float, new: float, weight: float) -> float:
    """`old`, moved towards `new` by the share `weight`: an exponential average, if repeated."""
    return old + weight * (new - old)
