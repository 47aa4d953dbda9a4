"""Exponential smoothing: what is told of a number that changes, without keeping its past."""

from __future__ import annotations


def smoothed(old: float | None, new: float, weight: float) -> float:
    """The mean so far, moved towards a new value by its weight; None: there is no value yet."""
    return new if old is None else (1.0 - weight) * old + weight * new
