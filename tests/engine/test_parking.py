"""More sessions than have room at once: each is served in turn, and has the target's text."""

from __future__ import annotations

import pytest

from tests.scheduler.worlds import World, exact
from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.engine.kv_moves import KvMoves
from wisp.engine.messages import Close
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import POLICIES, PolicyChoice, PolicyName
from wisp.testing.verifier import ScriptedVerifier

NUM_SESSIONS, NUM_SLOTS = 12, 3


def crowded(policy: PolicyName) -> World:
    costs = exact()
    world = World(make_policy(PolicyChoice(policy=policy), costs), costs, num_slots=NUM_SLOTS)
    for number in range(NUM_SESSIONS):
        world.open(number, honesty=0.8 if number % 2 else None, rate=4.0)
    return world


@pytest.mark.parametrize("policy", POLICIES)
def test_every_text_is_the_targets(policy: PolicyName) -> None:
    world = crowded(policy)
    world.run(10_000)
    assert not world.engine.sessions
    for edge in world.edges.values():
        request = edge.opening.request
        assert edge.tokens == world.verifier.expected(request.prompt, request.sampling, 40)
    assert world.verifier.num_parked > NUM_SESSIONS


def test_four_times_as_many_as_have_room_are_served_at_their_rate() -> None:
    world = crowded("wisp")
    while world.engine.sessions or world.inbox:
        world.run(1)
        for session in world.engine.sessions.values():
            assert session.promised_s > world.clock.now, "a token is late"


def test_a_session_that_is_closed_while_it_is_parked_leaves_nothing() -> None:
    world = crowded("wisp")
    while not any(session.parked for session in world.engine.sessions.values()):
        world.run(1)
    world.inbox += [Close(number) for number in world.engine.sessions]
    world.run(1)
    assert not world.engine.sessions
    memory = world.verifier.memory()
    assert memory
    assert memory.num_free == NUM_SLOTS


@pytest.mark.parametrize(("after_s", "num_late"), [(-0.01, 0), (0.01, 1)])
def test_a_load_that_comes_too_late_is_counted(after_s: float, num_late: int) -> None:
    verifier = ScriptedVerifier(max_sessions=2, vocab_size=10, num_slots=1)
    session = Session(
        1, [1, 2, 3], Sampling(max_tokens=9, seed=0), Slo(tokens_per_s=8, first_token_s=2)
    )
    verifier.open(session)
    (outcome,) = verifier.step(Batch([Seat(session, 3)]))
    session.computed(3)
    session.commit(outcome.tokens, now=0.0)
    session.moved(*verifier.park([session]), parked=True)
    moves = KvMoves(verifier, {1: session})
    moves.plan(session.promised_s + after_s)
    moves.move()
    report = moves.report()
    assert report.num_loaded_tokens == 3
    assert report.num_late_loads == num_late
