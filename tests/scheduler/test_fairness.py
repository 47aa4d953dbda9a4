"""Owners that compete for slots and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import pytest

from wisp.core.batch import Batch
from wisp.core.request import Request, Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.engine.engine import Engine
from wisp.engine.messages import Open, Verdicts
from wisp.estimator.shape import shape_of
from wisp.scheduler.admission import admission
from wisp.scheduler.fairness import competing, greediest
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import PolicyChoice
from wisp.testing.clock import VirtualClock
from wisp.testing.floor_and_slope import FloorAndSlope
from wisp.testing.verifier import ScriptedVerifier


def session(number: int, owner: str, rate: float = 10.0, priority: int = 0) -> Session:
    slo = Slo(tokens_per_s=rate, first_token_s=1, priority=priority)
    return Session(number, [1], Sampling(max_tokens=9, seed=0), slo, owner=owner)


def wanting(rate: float = 10.0, priority: int = 0) -> Slo:
    return Slo(tokens_per_s=rate, first_token_s=1, priority=priority)


def anybody(sessions: Collection[Session], slo: Slo) -> float | None:
    return None


def hundred_tokens_per_s(sessions: Collection[Session], slo: Slo) -> float | None:
    total = slo.tokens_per_s + sum(each.slo.tokens_per_s for each in sessions)
    return None if total <= 100 else 3.0


def fill(num_slots: int, owners: list[str]) -> list[Session]:
    """All ask again and again, in turn, until nothing changes any more."""
    sessions: list[Session] = []
    for number in range(20 * num_slots):
        owner = owners[number % len(owners)]
        decided = admission(sessions, wanting(), num_slots, anybody, owner)
        if decided.wait_s is None:
            sessions = [s for s in sessions if s not in decided.shed]
            sessions.append(session(number, owner))
    return sessions


def test_who_took_all_slots_gives_back_what_is_beyond_its_share() -> None:
    greedy = [session(number, "greedy", rate=0.001) for number in range(32)]
    sessions = list(greedy)
    for number in range(32, 60):
        decided = admission(sessions, wanting(), 32, anybody, "honest")
        if decided.wait_s is None:
            assert [s.owner for s in decided.shed] == ["greedy"]
            sessions = [s for s in sessions if s not in decided.shed]
            sessions.append(session(number, "honest"))
    assert Counter(s.owner for s in sessions) == {"greedy": 16, "honest": 16}


def test_shares_come_out_even_and_stay_so() -> None:
    counts = Counter(s.owner for s in fill(12, ["a", "b", "b", "b", "b", "c"]))
    assert counts == {"a": 4, "b": 4, "c": 4}


def test_more_owners_than_slots_take_none_from_each_other() -> None:
    sessions = [session(number, f"owner {number}") for number in range(4)]
    decided = admission(sessions, wanting(), 4, anybody, "another")
    assert decided.wait_s is not None
    assert decided.shed == []


def test_slots_that_nobody_else_wants_may_be_taken() -> None:
    assert len(fill(8, ["alone"])) == 8


def test_a_higher_class_takes_no_more_than_its_owners_share_from_others() -> None:
    """Whoever names the class `interactive` could have all others shed before."""
    sessions = [session(number, f"owner {number % 3}") for number in range(32)]
    num_shed = 0
    for number in range(32, 64):
        decided = admission(sessions, wanting(priority=1), 32, anybody, "pushy")
        if decided.wait_s is None:
            num_shed += len(decided.shed)
            sessions = [s for s in sessions if s not in decided.shed]
            sessions.append(session(number, "pushy", priority=1))
    assert num_shed == 8
    assert Counter(s.owner for s in sessions)["pushy"] == 8


def test_an_owner_may_always_replace_its_own() -> None:
    sessions = [session(number, "mine", priority=-1) for number in range(3)]
    sessions += [session(3, "yours")]
    decided = admission(sessions, wanting(priority=1), 4, anybody, "mine")
    assert [s.owner for s in decided.shed] == ["mine"]


def test_promises_beyond_an_even_part_of_the_time_keep_nobody_out() -> None:
    greedy = [session(number, "greedy", rate=50.0) for number in range(2)]
    assert admission(greedy, wanting(10), 32, hundred_tokens_per_s, "honest").wait_s is None
    # Its own are refused as before, and so is who wants more than is left.
    assert admission(greedy, wanting(10), 32, hundred_tokens_per_s, "greedy").wait_s == 3.0
    assert admission(greedy, wanting(80), 32, hundred_tokens_per_s, "honest").wait_s == 3.0


def test_a_promise_made_to_a_single_session_counts_whole() -> None:
    honest = [session(number, f"owner {number}", rate=25.0) for number in range(4)]
    assert admission(honest, wanting(10), 32, hundred_tokens_per_s, "another").wait_s == 3.0
    assert len(competing(honest, "another", 10.0)) == 4


def test_nobody_gives_a_slot_to_himself() -> None:
    assert greediest(Counter(a=4), "a", 4) is None
    assert greediest(Counter(a=4), "b", 4) == "a"
    assert greediest(Counter(a=2, b=2), "b", 4) is None


SEAT_S = 0.001


def served(**counts: int) -> dict[str, float]:
    """Tokens per second of a mean session of each owner, who come in this order, and of whom each
    session is promised 10. A step takes 5 ms, and each seat in it one more.
    """
    clock, estimator = VirtualClock(), FloorAndSlope(0.005, token_s=0.0, context_s=0.0)
    estimator.curve.seat_s = SEAT_S

    def step(batch: Batch) -> None:
        clock.now += estimator.predict_s(shape_of(batch))

    engine = Engine(
        ScriptedVerifier(max_sessions=1000, on_step=step),
        make_policy(PolicyChoice(policy="wisp"), estimator),
        max_window=8,
        clock=clock,
    )
    slo, owners, tokens = Slo(tokens_per_s=10.0, first_token_s=1.0), list[str](), Counter[str]()
    for owner, count in counts.items():
        for _ in range(count):
            request = Request(prompt=[5], sampling=Sampling(max_tokens=2000, seed=0))
            engine.turn([Open(session_id=len(owners), request=request, slo=slo, owner=owner)])
            owners.append(owner)
    start_s, num_open = clock.now, Counter(each.owner for each in engine.sessions.values())
    while clock.now < start_s + 30.0:
        for message in engine.turn([]):
            if isinstance(message, Verdicts):
                for number, verdict in message.verdicts:
                    tokens[owners[number]] += len(verdict.tokens)
    return {owner: tokens[owner] / num_open[owner] / 30.0 for owner in counts}


def test_time_beyond_an_even_part_is_only_lent() -> None:
    """Who had made the server promise all that it can slowed down all who came later."""
    alone, late = served(honest=200), served(greedy=200, honest=20)
    assert late["honest"] == pytest.approx(alone["honest"], rel=0.03)
    assert late["greedy"] == pytest.approx(alone["honest"], rel=0.03)


def test_a_session_gives_back_lent_time_only_if_that_helps() -> None:
    greedy = [session(number, "greedy", rate=25.0) for number in range(4)]
    decided = admission(greedy, wanting(10), 32, hundred_tokens_per_s, "honest")
    assert [s.owner for s in decided.shed] == ["greedy"]
    assert "time" in decided.shed_for

    def never(sessions: Collection[Session], slo: Slo) -> float | None:
        return 1.0 if len(sessions) > 1 else None

    assert admission(greedy, wanting(10), 32, never, "greedy").shed == []
