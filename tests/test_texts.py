"""The text is the target's by every way, on torch: see tests/texts.py, whose tests these are."""

from __future__ import annotations

from tests.texts import (
    flags,
    pair,
    target,
    test_a_large_number_is_answered_and_holds_no_slot,
    test_a_number_out_of_range_is_named,
    test_a_refusal_is_the_same_through_an_edge,
    test_a_seed_has_one_text,
    test_a_stop_string_across_the_border_of_min_tokens_counts,
    test_an_id_of_the_targets_padding_does_no_harm,
    test_an_id_of_the_targets_padding_ends_nobody_elses_drafts,
    test_no_slot_is_left_behind,
    test_the_text_is_one_decode_of_all_tokens,
    test_variables_that_collide_are_refused,
)

__all__ = [
    "flags",
    "pair",
    "target",
    "test_a_large_number_is_answered_and_holds_no_slot",
    "test_a_number_out_of_range_is_named",
    "test_a_refusal_is_the_same_through_an_edge",
    "test_a_seed_has_one_text",
    "test_a_stop_string_across_the_border_of_min_tokens_counts",
    "test_an_id_of_the_targets_padding_does_no_harm",
    "test_an_id_of_the_targets_padding_ends_nobody_elses_drafts",
    "test_no_slot_is_left_behind",
    "test_the_text_is_one_decode_of_all_tokens",
    "test_variables_that_collide_are_refused",
]
