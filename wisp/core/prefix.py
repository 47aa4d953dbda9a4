"""How far two sequences of tokens agree."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def common_prefix(one: Sequence[int], other: Sequence[int], limit: int = sys.maxsize) -> int:
    """Length of the longest common prefix, at most `limit`.

    Nearly always one sequence continues the other, or leaves it near its end: comparing whole
    slices first, and halving where they differ, costs no Python work for each token.
    """
    low, high = 0, max(0, min(len(one), len(other), limit))
    if list(one[:high]) == list(other[:high]):
        return high
    while high - low > 1:  # equal up to low, different before high
        middle = (low + high) // 2
        if list(one[low:middle]) == list(other[low:middle]):
            low = middle
        else:
            high = middle
    return low
