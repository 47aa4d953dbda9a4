from __future__ import annotations

from benchmarks.step_log import drafting


def test_what_own_drafts_took_is_told_by_their_number() -> None:
    """Of steps without prompts, in which enough sessions ask."""
    rows = [
        {"asking": asking, "prompts": prompts, "asked": asked, "drafting_s": drafting_s}
        for asking, prompts, asked, drafting_s in [
            (8, 0, 3, 0.004),
            (14, 0, 3, 0.006),
            (9, 0, 3, 0.005),
            (9, 0, 4, 0.007),
            (9, 1, 4, 0.100),
            (2, 0, 4, 0.100),
            (20, 0, 4, 0.008),
        ]
    ]
    assert list(drafting(rows))[1:] == [
        "17 to 23 4 8.00 1",
        "8 to 14 3 5.00 3",
        "8 to 14 4 7.00 1",
    ]
