"""What a cache holds of a sequence."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(held: Sequence[int], tokens: Sequence[int], limit: int) -> int:
    """Length of the longest common prefix, at most `limit`.

    Nearly always the new sequence continues the old one, or leaves it near its end: comparing whole
    slices first, and halving where they differ, costs no Python work for each token.
    """
    low, high = 0, max(0, min(len(held), len(tokens), limit))
    if list(held[:high]) == list(tokens[:high]):
        return high
    while high - low > 1:  # equal up to low, different before high
        middle = (low + high) // 2
        if list(held[low:middle]) == list(tokens[low:middle]):
            low = middle
        else:
            high = middle
    return low
