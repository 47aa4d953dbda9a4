"""The capacity of a system: the most devices whose promises it keeps, by its best tuning. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

# The share of promises that a load must attain to count: by definition of capacity (docs/).
ATTAINED = 0.95

Tuning = TypeVar("Tuning")


def best_capacity(
    tunings: Sequence[Tuning],
    holds: Callable[[Tuning, int], bool],
    *,
    start: int,
    max_count: int,
    resolution: float,
    growth: float = 2.0,
) -> tuple[int, Tuning]:
    """The capacity of the tuning with the largest one, and that tuning; the first if all have 0.

    A tuning is searched only where it holds more than the best before it. See `capacity`.
    """
    best, best_tuning = 0, tunings[0]
    for tuning in tunings:
        more = best + _step(best, resolution) if best else 0
        if more > max_count or (best and not holds(tuning, more)):
            continue
        found = capacity(
            lambda count, tuning=tuning: holds(tuning, count),  # type: ignore[misc]
            max(start, int(growth * more)),
            max_count,
            held=more,
            resolution=resolution,
            growth=growth,
        )
        if found > best:
            best, best_tuning = found, tuning
    return best, best_tuning


def capacity(
    holds: Callable[[int], bool],
    start: int,
    max_count: int,
    *,
    held: int = 0,
    resolution: float,
    growth: float = 2.0,
) -> int:
    """The largest count that holds, to within `resolution` of it (at least 1); 0 if 1 does not.

    From `start` the count grows by `growth` until it fails, or `max_count` holds; then the gap is
    halved. `held` is known to hold. More is taken to hold less often, but for noise.
    """
    count = failed = min(max_count, max(start, held + 1))
    while holds(count):
        held = count
        if count == max_count:
            return max_count
        count = failed = min(max_count, max(count + 1, int(growth * count)))
    while failed - held > _step(held, resolution):
        count = (held + failed) // 2
        if holds(count):
            held = count
        else:
            failed = count
    return held


def _step(count: int, resolution: float) -> int:
    return max(1, int(resolution * count))
