from __future__ import annotations

from wisp.edge.predictor.base import Repeats


def test_it_tells_what_followed_the_last_time() -> None:
    repeats = Repeats([1, 2, 3, 9, 1, 2])
    assert repeats.agree([1, 2], 3) == 1
    assert repeats.agree([1, 2], 4) == -1
    assert repeats.agree([7, 8], 4) == 0
    assert repeats.agree([2], 3) == 0
    repeats.extend([4, 1, 2])
    assert repeats.agree([0, 1, 2], 4) == 1
    assert repeats.agree([4, 1], 2) == 1


def test_growing_bit_by_bit_is_the_same() -> None:
    text = [1, 2, 3, 1, 2, 4, 1, 2]
    repeats = Repeats([])
    for token in text:
        repeats.extend([token])
    for token in range(5):
        assert repeats.agree(text, token) == Repeats(text).agree(text, token)
