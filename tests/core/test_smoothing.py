from __future__ import annotations

import pytest

from wisp.core.smoothing import smoothed


def test_the_first_value_is_taken_whole_and_later_ones_by_their_weight() -> None:
    assert smoothed(None, 3.0, 0.25) == 3.0
    assert smoothed(3.0, 7.0, 0.25) == pytest.approx(4.0)


def test_what_stays_the_same_is_reached() -> None:
    value = 0.0
    for _ in range(100):
        value = smoothed(value, 5.0, 0.2)
    assert value == pytest.approx(5.0)
