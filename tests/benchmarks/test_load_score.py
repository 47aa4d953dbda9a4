"""The judge of a load that goes on, and the search for a capacity; virtual time."""

from __future__ import annotations

from benchmarks.load.score import Stats, Tally, Watched
from wisp.core.slo import Slo

SLO = Slo(tokens_per_s=10.0, first_token_s=1.0)


def feed(tally: Tally, watched: Watched, rate: float, start_s: float, end_s: float) -> None:
    """A token every 1 / rate from `start_s` on."""
    for index in range(round((end_s - start_s) * rate)):
        tally.tokens(watched, 1, start_s + index / rate)


def test_a_session_of_the_window_is_judged_from_its_opening() -> None:
    tally = Tally()
    tally.window_begins(0.0)
    in_time, too_late, slow = (tally.opened(SLO, 1.0) for _ in range(3))
    feed(tally, in_time, 11.0, 1.5, 5.0)
    feed(tally, too_late, 11.0, 2.5, 5.0)
    feed(tally, slow, 9.0, 1.5, 5.0)
    stats = tally.window_ends(5.0)
    assert (stats.num_judged, stats.num_attained) == (3, 1)
    assert stats.first_token_s == [0.5, 1.5, 0.5]


def test_what_came_before_the_load_changed_neither_helps_nor_harms() -> None:
    tally = Tally()
    spoilt, starved = tally.opened(SLO, 0.0), tally.opened(SLO, 0.0)
    feed(tally, spoilt, 50.0, 0.5, 10.0)
    feed(tally, starved, 1.0, 0.5, 10.0)
    tally.load_changed(10.0)
    feed(tally, spoilt, 9.0, 10.0, 14.0)
    feed(tally, starved, 11.0, 10.0, 14.0)
    tally.window_begins(14.0)
    feed(tally, spoilt, 9.0, 14.0, 20.0)
    feed(tally, starved, 11.0, 14.0, 20.0)
    assert tally.window_ends(20.0).attainment == 0.5


def test_what_the_change_itself_cost_is_forgiven() -> None:
    tally = Tally()
    watched = tally.opened(SLO, 0.0)
    tally.load_changed(10.0)
    feed(tally, watched, 2.0, 10.0, 14.0)
    tally.window_begins(14.0)
    feed(tally, watched, 11.0, 14.0, 20.0)
    assert tally.window_ends(20.0).attainment == 1.0


def test_what_was_got_ahead_since_the_change_may_be_used_up() -> None:
    tally = Tally()
    watched = tally.opened(SLO, 0.0)
    tally.load_changed(10.0)
    feed(tally, watched, 12.0, 10.0, 14.0)
    tally.window_begins(14.0)
    feed(tally, watched, 9.5, 14.0, 20.0)
    assert tally.window_ends(20.0).attainment == 1.0


def test_a_session_without_tokens_breaks_its_promise_once_they_are_late() -> None:
    tally = Tally()
    tally.window_begins(0.0)
    tally.opened(SLO, 0.5)
    tally.opened(SLO, 4.5)  # too early to say
    stats = tally.window_ends(5.0)
    assert (stats.num_judged, stats.num_attained) == (1, 0)


def test_a_session_that_ends_as_the_window_begins_tells_nothing() -> None:
    tally = Tally()
    watched = tally.opened(SLO, 0.0)
    tally.window_begins(5.0)
    feed(tally, watched, 100.0, 5.0, 5.1)
    tally.ended(watched, 5.1)
    assert tally.window_ends(10.0).num_judged == 0


def test_tokens_of_one_message_come_together() -> None:
    tally = Tally()
    tally.window_begins(0.0)
    watched = tally.opened(SLO, 0.0)
    tally.tokens(watched, 3, 0.5)
    tally.tokens(watched, 2, 1.0)
    assert sorted(tally.window_ends(2.0).between_tokens_s()) == [0.0, 0.0, 0.0, 0.0, 0.5]


def test_processes_are_added_up() -> None:
    one, other = (
        Stats(num_judged=2, num_attained=1, gaps_s=[0.1]),
        Stats(num_judged=1, gaps_s=[0.2]),
    )
    assert one.plus(other) == Stats(num_judged=3, num_attained=1, gaps_s=[0.1, 0.2])
