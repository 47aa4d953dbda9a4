"""A decision depends on its input and on what was learned: asked again, it is the same again."""

from __future__ import annotations

import random
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.worlds import Tiled, World
from wisp.core.batch import Batch
from wisp.core.session import Session
from wisp.core.table import row_of
from wisp.estimator.base import Estimator
from wisp.estimator.step_time import StepTimeEstimator
from wisp.scheduler.base import Policy, Situation
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import POLICIES, PolicyChoice, PolicyName


def facts(sessions: Collection[Session]) -> list[tuple[object, ...]]:
    """What a decision might change."""
    return [
        (
            list(s.tokens),
            list(s.buffer),
            list(s.stream.acceptance),
            s.num_computed,
            repr(s.edge_stats),
        )
        for s in sessions
    ]


def ask_twice(policy: Policy, chance: random.Random, num_asked: list[int]) -> None:
    """Every decision of the policy, also as on a server where steps overlap, is compared."""
    schedule, wake_s = policy.schedule, policy.wake_s

    def schedule_twice(situation: Situation) -> Batch:
        other = situation._replace(now=situation.now + 0.05)
        busy = situation._replace(num_away=chance.randrange(50))
        before = facts(situation.sessions)
        found = [schedule(asked) for asked in (situation, busy, other)]
        again = [schedule(asked) for asked in (situation, busy, other)]
        assert again == found
        assert facts(situation.sessions) == before
        assert all(session.row == row_of(session) for session in situation.sessions if session.row)
        num_asked[0] += bool(found[0])
        return found[0]

    def wake_twice(situation: Situation) -> float | None:
        first = wake_s(situation)
        assert wake_s(situation) == first
        return first

    policy.schedule = schedule_twice  # type: ignore[method-assign]
    policy.wake_s = wake_twice  # type: ignore[method-assign]


@pytest.mark.parametrize("name", POLICIES)
@settings(deadline=None, max_examples=4)
@given(st.integers(0, 10_000))
def test_a_decision_called_twice_is_the_same_twice(name: PolicyName, seed: int) -> None:
    chance = random.Random(seed)
    estimator: Estimator = StepTimeEstimator() if seed % 2 else Tiled()
    policy = make_policy(
        PolicyChoice(policy=name, max_step_tokens=chance.choice([8, 32, 256])), estimator
    )
    num_asked = [0]
    ask_twice(policy, chance, num_asked)
    world = World(policy, Tiled(), seed)
    for number in range(12):
        world.open(
            number,
            honesty=chance.choice([None, 0.0, 0.6, 1.0]),
            says=chance.random(),
            alive=chance.random() < 0.8,
            num_prompt=chance.randrange(1, 100),
            max_tokens=chance.randrange(1, 20),
            rate=chance.choice([8.0, 60.0]),
        )
    world.run(30)
    assert num_asked[0] > 5
