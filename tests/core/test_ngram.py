from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wisp.core.ngram import NgramDrafter


def test_a_new_text_promises_nothing() -> None:
    assert NgramDrafter([1, 2, 3, 4]).drafts(8) == []
    assert NgramDrafter([]).drafts(8) == []


def test_what_followed_the_last_tokens_comes_again() -> None:
    drafter = NgramDrafter([1, 2, 3, 4, 5, 9])
    drafter.extend([1, 2, 3])
    assert drafter.drafts(3) == [4, 5, 9]
    drafter.extend([7])
    assert drafter.drafts(3) == []


def test_the_longer_match_wins_over_the_later() -> None:
    drafter = NgramDrafter([1, 2, 3, 4, 8, 2, 3, 5])
    drafter.extend([1, 2, 3])
    assert drafter.drafts(1) == [4]
    drafter.extend([6, 2, 3])  # 6 2 3 is new, 2 3 is not
    assert drafter.drafts(1) == [6]


def test_a_loop_goes_on() -> None:
    drafter = NgramDrafter([1, 2, 3, 1, 2, 3])
    assert drafter.drafts(7) == [1, 2, 3, 1, 2, 3, 1]


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 60))
def test_token_by_token_is_the_same_as_all_at_once(text: list[int], cut: int) -> None:
    drafter = NgramDrafter(text[:cut])
    for token in text[cut:]:
        drafter.extend([token])
    assert drafter.drafts(5) == NgramDrafter(text).drafts(5)
