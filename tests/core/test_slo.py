from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.core.slo import Attainment, Slo, SloClasses
from wisp.errors import BadRequest

SLO = Slo(tokens_per_s=2.0, first_token_s=1.0, name="gold")


def attained(*arrivals: tuple[int, float]) -> Attainment:
    """Opened at 10 s; each arrival is (number of tokens, when)."""
    found = Attainment(SLO, opened_s=10.0)
    for num_tokens, now in arrivals:
        found.add(num_tokens, now)
    return found


def test_a_first_token_and_a_rate_that_hold() -> None:
    session = attained((1, 11.0), (1, 11.5), (1, 12.0))
    assert session.num_in_time == 3
    assert session.usage() == {
        "slo_class": "gold",
        "slo_met": True,
        "share_in_time": 1.0,
        "first_token_s": 1.0,
        "tokens_per_s": 2.0,
    }


def test_a_late_first_token_alone_breaks_the_promise() -> None:
    session = attained((1, 11.25), (1, 11.75), (1, 12.25))
    assert session.num_in_time == 2
    assert not session.first_token_attained
    assert session.rate_attained
    assert not session.usage()["slo_met"]


def test_a_burst_keeps_its_reader_busy_for_as_long_as_it_lasts() -> None:
    assert attained((1, 11.0), (4, 11.5), (1, 13.5)).num_in_time == 6
    assert attained((1, 11.0), (4, 11.5), (1, 13.75)).num_in_time == 5


def test_after_a_late_token_the_reader_goes_on_from_there() -> None:
    session = attained((1, 11.0), (1, 21.0), (1, 21.5), (1, 22.0))
    assert session.num_in_time == 3
    assert not session.rate_attained


def test_one_burst_has_no_rate_to_break() -> None:
    session = attained((5, 10.5))
    assert session.tokens_per_s is None
    assert session.rate_attained


def test_nothing_came() -> None:
    session = attained()
    assert not session.first_token_attained
    assert session.usage()["first_token_s"] is None
    assert session.usage()["share_in_time"] == 0.0


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 2)), min_size=1, max_size=30))
def test_the_parts_add_up_and_the_rate_follows_from_timeliness(
    rounds: list[tuple[int, float]],
) -> None:
    session, now, in_time = Attainment(SLO, 0.0), 0.0, 0
    for num_tokens, pause_s in rounds:
        now += pause_s
        found = session.add(num_tokens, now)
        assert 0 <= found <= num_tokens
        in_time += found
    assert session.num_in_time == in_time
    assert session.num_tokens == sum(num for num, _ in rounds)
    rate = session.tokens_per_s
    if rate is not None and all(num == 1 for num, _ in rounds) and in_time == len(rounds):
        # token by token, each in time: from when the reader wanted the first, the rate is kept
        assert now <= SLO.first_token_s + (len(rounds) - 1) / SLO.tokens_per_s + 1e-9


def test_the_first_token_of_a_resumed_session_counts_from_its_opening() -> None:
    session = Attainment(SLO, opened_s=100.0)
    assert session.add(1, 100.5) == 1
    assert session.first_token_s == pytest.approx(0.5)


@pytest.fixture
def classes() -> SloClasses:
    return SloClasses(
        Slo(name="default", tokens_per_s=5, first_token_s=3, priority=2),
        [Slo(name="gold", tokens_per_s=40, first_token_s=2, priority=9)],
    )


def test_whoever_asks_for_nothing_gets_the_default(classes: SloClasses) -> None:
    default = Slo(name="default", tokens_per_s=5, first_token_s=3, priority=2)
    assert classes.promise(None) == classes.promise("default") == default


def test_a_requests_own_numbers_get_no_priority_of_their_own(classes: SloClasses) -> None:
    asked = Slo(name="gold", tokens_per_s=1, first_token_s=4, priority=99)
    assert classes.promise(asked) == Slo(name="custom", tokens_per_s=1, first_token_s=4, priority=2)


def test_an_unknown_class_names_those_that_exist(classes: SloClasses) -> None:
    with pytest.raises(BadRequest, match="no SLO class 'silver': use one of default, gold"):
        classes.promise("silver")


@pytest.mark.parametrize(
    "numbers", [(0, 1), (1, 0), (-1, 1), (math.nan, 1), (1, math.inf), (1e-300, 1), (1, 1e300)]
)
def test_numbers_that_promise_nothing_are_refused(
    classes: SloClasses, numbers: tuple[float, float]
) -> None:
    with pytest.raises(BadRequest, match=r"0\.001 to 1e\+06, not"):
        classes.promise(Slo(tokens_per_s=numbers[0], first_token_s=numbers[1]))
