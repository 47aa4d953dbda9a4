from __future__ import annotations

import pytest

from wisp.access.quota import Quota, Usage
from wisp.core.slo import Slo
from wisp.errors import Forbidden, Overloaded
from wisp.testing.clock import VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def test_without_limits_nothing_is_refused_and_nothing_told(clock: VirtualClock) -> None:
    usage = Usage(Quota(), clock)
    for _ in range(1000):
        usage.check(Slo(tokens_per_s=1, first_token_s=1, priority=9))
        usage.opened(10**6)
    assert usage.headers() == {}


def test_sessions_at_once(clock: VirtualClock) -> None:
    usage = Usage(Quota(max_sessions=2), clock)
    for _ in range(2):
        usage.check()
        usage.opened(5)
    with pytest.raises(Overloaded, match="all its 2 sessions"):
        usage.check()
    usage.closed()
    usage.check()


def test_requests_of_a_minute_come_back_evenly(clock: VirtualClock) -> None:
    usage = Usage(Quota(requests_per_minute=6), clock)
    for _ in range(6):
        usage.check()
        usage.opened(1)
    with pytest.raises(Overloaded, match="6 requests a minute") as caught:
        usage.check()
    assert caught.value.retry_after_s == 10.0
    clock.now = 10.0
    usage.check()
    usage.opened(1)
    with pytest.raises(Overloaded):
        usage.check()


def test_tokens_may_be_overdrawn_and_are_paid_off(clock: VirtualClock) -> None:
    """Nobody knows how long an answer will be; the next request waits until it is paid for."""
    usage = Usage(Quota(tokens_per_minute=60), clock)
    usage.check()
    usage.opened(50)
    usage.used(40)
    with pytest.raises(Overloaded, match="60 tokens a minute") as caught:
        usage.check()
    assert caught.value.retry_after_s == pytest.approx(31.0)
    clock.now = 31.0
    usage.check()


def test_a_resume_is_taken_beyond_the_rates_and_paid_off(clock: VirtualClock) -> None:
    """It was refused, for longer than an edge tries: a text was lost to its own key's rates."""
    usage = Usage(Quota(requests_per_minute=5, tokens_per_minute=10), clock)
    usage.opened(10)
    usage.closed()
    with pytest.raises(Overloaded):
        usage.check()
    for _ in range(2):
        usage.check(resumes=True)
        usage.opened(4)
        usage.closed()
    assert usage.headers()["x-ratelimit-remaining-requests"] == "2"
    usage.opened(2)
    usage.closed()
    with pytest.raises(Overloaded, match="10 tokens a minute") as caught:
        usage.check(resumes=True)  # nobody's requests are all resumes
    assert caught.value.retry_after_s == pytest.approx(6.0)
    clock.now = caught.value.retry_after_s
    usage.check(resumes=True)
    with pytest.raises(Overloaded):
        usage.check()


def test_what_was_refused_costs_nothing(clock: VirtualClock) -> None:
    usage = Usage(Quota(requests_per_minute=3, tokens_per_minute=100), clock)
    before = usage.headers()
    usage.opened(40)
    usage.refund(40)
    usage.closed()
    assert usage.headers() == before


def test_the_headers_are_openais(clock: VirtualClock) -> None:
    usage = Usage(Quota(requests_per_minute=60, tokens_per_minute=600), clock)
    usage.opened(100)
    assert usage.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1.000s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "10.000s",
    }


def test_classes_and_priorities(clock: VirtualClock) -> None:
    usage = Usage(Quota(slo_classes=["default", "batch"], max_priority=0), clock)
    usage.check(Slo(name="batch", tokens_per_s=1, first_token_s=1, priority=-1))
    with pytest.raises(Forbidden, match="'interactive': use one of default, batch"):
        usage.check(Slo(name="interactive", tokens_per_s=1, first_token_s=1))
    with pytest.raises(Forbidden, match="priority of 0 at most"):
        usage.check(Slo(name="default", tokens_per_s=1, first_token_s=1, priority=1))


def test_a_new_limit_counts_from_then_on(clock: VirtualClock) -> None:
    usage = Usage(Quota(requests_per_minute=1), clock)
    usage.opened(1)
    usage.limit(Quota(requests_per_minute=1, max_sessions=9))
    with pytest.raises(Overloaded):
        usage.check()
    usage.limit(Quota())
    usage.check()
