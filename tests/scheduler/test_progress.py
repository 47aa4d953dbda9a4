"""Over many steps, under the engine: nobody starves, and nobody is believed for long."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.worlds import Tiled, World, exact
from wisp.core.slo import Slo
from wisp.engine.messages import Failed
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import POLICIES, PolicyChoice, PolicyName
from wisp.testing.floor_and_slope import FloorAndSlope


def make_world(name: PolicyName = "wisp", seed: int = 0, max_step_tokens: int = 64) -> World:
    policy = make_policy(
        PolicyChoice(policy=name, max_step_tokens=max_step_tokens, batch_size=4), Tiled()
    )
    return World(policy, Tiled(), seed)


@pytest.mark.parametrize("name", POLICIES)
@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000))
def test_every_session_gets_all_its_text(name: PolicyName, seed: int) -> None:
    chance = random.Random(seed)
    world = make_world(name, seed, max_step_tokens=chance.choice([8, 32, 256]))
    for number in range(24):
        world.open(
            number,
            honesty=chance.choice([None, 0.0, 0.6, 1.0]),
            says=chance.random(),
            alive=chance.random() < 0.8,
            num_prompt=chance.randrange(1, 100),
            max_tokens=chance.randrange(1, 20),
            rate=0.5,
        )
    world.run(5000)
    assert not world.engine.sessions
    for edge in world.edges.values():
        opening = edge.opening
        assert edge.tokens == world.verifier.expected(
            opening.request.prompt, opening.request.sampling, 40
        )


def test_nobody_starves_among_more_sessions_than_a_step_holds() -> None:
    """48 sessions, 16 tokens a step: each is seated within five periods, drafts or not."""
    world = make_world(max_step_tokens=16)
    for number in range(48):
        honesty = 0.9 if number % 2 else None
        world.open(number, honesty=honesty, num_prompt=4, max_tokens=1000, rate=20)
    world.run(60)
    first = len(world.batches)
    world.run(200)  # of 5.5 ms
    seen = dict.fromkeys(world.engine.sessions, first)
    for step, seats in enumerate(world.batches[first:], first):
        for number, _ in seats:
            assert step - seen[number] <= 45, f"session {number} waited {step - seen[number]}"
            seen[number] = step


def test_a_long_prompt_comes_through_a_full_server() -> None:
    world = make_world(max_step_tokens=32)
    for number in range(32):
        world.open(number, num_prompt=2, max_tokens=1000, rate=0.01)
    world.run(10)
    world.open(99, num_prompt=300, max_tokens=5, rate=0.01)
    world.run(150)
    assert world.edges[99].tokens


def test_a_liar_loses_its_share_and_the_honest_keep_theirs() -> None:
    """All say 0.9; the liars' drafts are rubbish, and the room is scarce."""
    slow = FloorAndSlope(0.1, 1e-4)  # a target so slow that drafts pay
    world = World(make_policy(PolicyChoice(policy="wisp", max_step_tokens=48), slow), slow)
    for number in range(12):
        world.open(number, honesty=0.0 if number < 6 else 0.9, says=0.9, max_tokens=1000, rate=0.01)
    world.run(40)
    first = len(world.batches)
    world.run(60)
    drafts = [0, 0]
    for seats in world.batches[first:]:
        for number, count in seats:
            drafts[number >= 6] += count
    assert drafts[1] > 10 * drafts[0]
    assert drafts[1] > 60 * 6  # blocks come to every second step, and lose a token on the way


def test_deadlines_hold_when_the_estimator_is_right() -> None:
    policy = make_policy(PolicyChoice(policy="wisp", max_step_tokens=256), exact())
    world = World(policy, exact())
    for number in range(60):
        world.open(number, honesty=0.7 if number % 3 else None, max_tokens=60, rate=20)
    last: dict[int, float] = {}
    late = total = 0
    while world.engine.sessions or world.inbox:
        for number, verdict in world.run(1):
            if number in last:
                total += 1
                late += verdict.committed_s - last[number] > 1 / 20 + 1e-9
            last[number] = verdict.committed_s
    assert total > 500
    assert late <= 0.01 * total


def test_a_session_that_would_break_promises_is_refused() -> None:
    dear = FloorAndSlope(context_s=1e-6, margin=0.0)  # 0.1 ms for each seat of 100 tokens
    world = World(make_policy(PolicyChoice(policy="wisp"), dear), dear)
    for number in range(80):  # 12 ms for a step is what 100 tokens/s allow
        world.open(number, rate=100, num_prompt=100)
    failures = [m for m in world.engine.turn(world.inbox) if isinstance(m, Failed)]
    assert 40 < len(world.engine.sessions) == 80 - len(failures) < 70
    assert all(failure.kind == "overloaded" for failure in failures)
    assert "try again in" in failures[0].message


def test_an_empty_server_takes_anybody() -> None:
    policy = make_policy(PolicyChoice(policy="wisp"), exact())
    assert policy.admits([], Slo(tokens_per_s=1e6, first_token_s=1)) is None
