"""The most of something that still holds: growing, then halving. Pure."""

from __future__ import annotations

from collections.abc import Callable


def most_that_holds(
    holds: Callable[[int], bool], start: int, most: int, *, held: int = 0, resolution: float = 0.06
) -> int:
    """To within `resolution` of it (at least 1); `held` is known to hold. 0 if 1 does not.

    From `start` the count doubles until it fails, or `most` holds; then the gap is halved.
    """
    count = failed = min(most, max(start, held + 1))
    while holds(count):
        held = count
        if count == most:
            return most
        count = failed = min(most, 2 * count)
    while failed - held > max(1, int(resolution * failed)):
        count = (held + failed) // 2
        if holds(count):
            held = count
        else:
            failed = count
    return held
