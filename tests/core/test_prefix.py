from __future__ import annotations

import pytest

from wisp.core.prefix import common_prefix


@pytest.mark.parametrize(
    ("held", "tokens", "limit", "expected"),
    [
        ([], [1], 0, 0),
        ([1, 2, 3], [1, 2, 3, 4], 3, 3),
        ([1, 2, 3], [1, 2, 3], 2, 2),
        ([1, 2, 3, 4], [1, 2, 9], 2, 2),
        ([5, 2, 3, 4], [1, 2, 9], 2, 0),
        ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 0, 7, 8], 7, 5),
    ],
)
def test_common_prefix(held: list[int], tokens: list[int], limit: int, expected: int) -> None:
    assert common_prefix(held, tokens, limit) == expected


def test_without_a_limit_the_shorter_one_is() -> None:
    assert common_prefix([1, 2, 3], [1, 2]) == 2
    assert common_prefix([], [1, 2]) == 0
    assert common_prefix([1, 2, 4], [1, 2, 3, 4]) == 2
