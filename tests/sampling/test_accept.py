from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.sampling.accept import num_accepted, standing


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


@given(st.lists(TOKENS, min_size=1, max_size=6), st.data())
def test_many_drafts_at_once(drafts: list[list[int]], data: st.DataObject) -> None:
    sizes = [len(draft) + 1 for draft in drafts]
    choices = [
        data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)) for size in sizes
    ]
    width = max(sizes) - 1
    table = standing(
        np.array([token for each in choices for token in each]),
        np.array([draft + [0] * (width - len(draft)) for draft in drafts]).reshape(
            len(drafts), width
        ),
        np.array([len(draft) for draft in drafts]),
        -1,
    )
    for draft, chosen, row in zip(drafts, choices, table.tolist(), strict=True):
        kept = chosen[: num_accepted(draft, chosen) + 1]
        assert row == kept + [-1] * (width + 1 - len(kept))
