from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.sampling.accept import num_accepted


@pytest.mark.parametrize(
    ("draft", "choices", "accepted"),
    [
        ([], [5], 0),
        ([1], [2, 9], 0),
        ([1], [1, 9], 1),
        ([1, 2, 3], [1, 2, 3, 4], 3),
        ([1, 2, 3], [1, 0, 3, 4], 1),  # an agreement behind the first mismatch is worth nothing
        ([1, 2, 3], [0, 2, 3, 4], 0),
    ],
)
def test_the_longest_matching_prefix(draft: list[int], choices: list[int], accepted: int) -> None:
    assert num_accepted(draft, choices) == accepted


TOKENS = st.lists(st.integers(0, 2), max_size=8)


@given(TOKENS, st.data())
def test_the_rule(draft: list[int], data: st.DataObject) -> None:
    size = len(draft) + 1
    choices = data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    accepted = num_accepted(draft, choices)
    assert draft[:accepted] == choices[:accepted]
    assert accepted == len(draft) or draft[accepted] != choices[accepted]
