"""Sessions of several priorities on an engine with few slots: each is answered exactly once."""

from __future__ import annotations

import random

import pytest

from wisp.core.drafts import Directive
from wisp.core.request import Request, Sampling
from wisp.core.slo import Slo
from wisp.engine.engine import Engine
from wisp.engine.messages import Failed, FromEngine, Open, ToEngine, Verdicts
from wisp.scheduler.baselines import Fcfs
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import PolicyChoice, PolicyName
from wisp.testing.clock import VirtualClock
from wisp.testing.floor_and_slope import FloorAndSlope
from wisp.testing.verifier import ScriptedVerifier

DIRECTIVE = Directive(window=8, threshold=0.3)


def opening(number: int, priority: int, max_tokens: int = 10, rate: float = 10.0) -> Open:
    return Open(
        session_id=number,
        request=Request(prompt=[5, 6, 7], sampling=Sampling(max_tokens=max_tokens, seed=number)),
        slo=Slo(tokens_per_s=rate, first_token_s=1, priority=priority),
        has_edge=False,
    )


def make_engine(num_slots: int) -> tuple[Engine, ScriptedVerifier]:
    verifier = ScriptedVerifier(max_sessions=num_slots)
    policy = Fcfs(FloorAndSlope(), DIRECTIVE, block_tokens=4, max_step_tokens=64)
    return Engine(verifier, policy, max_window=16, clock=VirtualClock()), verifier


def failures(published: list[FromEngine]) -> list[tuple[int, str]]:
    return [(m.session_id, m.kind) for m in published if isinstance(m, Failed)]


def test_the_lowest_priority_makes_room() -> None:
    engine, verifier = make_engine(2)
    engine.turn([opening(1, 0), opening(2, -1)])
    published = engine.turn([opening(3, 1)])
    (failure,) = (m for m in published if isinstance(m, Failed))
    assert (failure.session_id, failure.kind) == (2, "shed")
    assert failure.retry_after_s
    assert "higher priority: try again in" in failure.message
    assert engine.sessions.keys() == {1, 3}
    assert verifier.num_open == 2


def test_equals_are_not_shed_for_each_other() -> None:
    engine, _ = make_engine(1)
    assert failures([*engine.turn([opening(1, 1), opening(2, 1), opening(3, 0)])]) == [
        (2, "overloaded"),
        (3, "overloaded"),
    ]
    assert engine.sessions.keys() == {1}


@pytest.mark.parametrize("name", ["fcfs", "wisp"])
@pytest.mark.parametrize("seed", range(10))
def test_each_is_answered_exactly_once(name: PolicyName, seed: int) -> None:
    chance = random.Random(seed)
    verifier = ScriptedVerifier(max_sessions=6)
    policy = make_policy(PolicyChoice(policy=name), FloorAndSlope())
    clock = VirtualClock()
    engine = Engine(verifier, policy, max_window=16, clock=clock)
    openings = [
        opening(n, chance.randrange(3), chance.randrange(1, 30), chance.choice([1, 20, 150]))
        for n in range(60)
    ]
    waiting, texts, ends = list(openings), {n: list[int]() for n in range(60)}, dict[int, str]()
    while waiting or engine.sessions:
        inbox: list[ToEngine] = [waiting.pop(0) for _ in range(chance.randrange(3)) if waiting]
        most = max((m.slo.priority for m in inbox if isinstance(m, Open)), default=None)
        for message in engine.turn(inbox):
            if isinstance(message, Failed):
                assert message.session_id not in ends
                ends[message.session_id] = message.kind
                if message.kind == "shed":
                    assert most is not None
                    assert openings[message.session_id].slo.priority < most
            elif isinstance(message, Verdicts):
                for number, verdict in message.verdicts:
                    assert number not in ends
                    texts[number] += verdict.tokens
                    if verdict.finish_reason:
                        ends[number] = "finished"
        clock.now += 0.01
    assert ends.keys() == texts.keys()
    assert set(ends.values()) == {"finished", "shed", "overloaded"}
    assert verifier.num_open == 0
    for opened in openings:
        truth = verifier.expected(opened.request.prompt, opened.request.sampling, 30)
        text, end = texts[opened.session_id], ends[opened.session_id]
        assert text == truth[: len(text)]
        assert (len(text) == opened.request.sampling.max_tokens) == (end == "finished")
