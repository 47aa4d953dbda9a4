"""Conversations that come back, in the simulator and in the load test."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from benchmarks.load.campaign import Times
from benchmarks.load.regimes import RETURN_S, RETURN_SIGMA
from benchmarks.load.score import Tally
from benchmarks.load.users import Bell, User, chain
from benchmarks.sim.fleet import Setup, simulate
from benchmarks.sim.loads import in_turn
from benchmarks.sim.workload import Conversation, Lengths, Presence, Workload
from wisp.core.slo import Slo
from wisp.scheduler.tuning import Tuning

TURNS = Workload(Lengths(400.0), Lengths(60.0), think_s=4.0, turns=4.0, think_sigma=0.5)


def test_a_turn_brings_all_that_was_said_until_the_context_is_full() -> None:
    conversation = Conversation(TURNS._replace(turns=1e9, max_context=1000))
    chance = Random(1)
    assert [conversation.turn(200, 100, chance) for _ in range(5)] == [0, 300, 600, 0, 300]
    assert conversation.number == 1


def test_conversations_have_as_many_turns_as_asked_for() -> None:
    conversation = Conversation(TURNS._replace(max_context=10**9))
    chance = Random(2)
    for _ in range(4000):
        conversation.turn(1, 1, chance)
    assert 4000 / conversation.number == pytest.approx(TURNS.turns, rel=0.1)


def test_turns_come_back_when_those_of_the_trace_do() -> None:
    workload, chance = Workload(think_s=RETURN_S, think_sigma=RETURN_SIGMA), Random(3)
    times_s = sorted(workload.think(chance) for _ in range(10_000))
    assert times_s[5000] == pytest.approx(126.0, rel=0.05)
    assert times_s[9000] == pytest.approx(480.0, rel=0.05)


def test_a_users_next_prompt_begins_with_what_was_said() -> None:
    user = User(
        0,
        connection=None,  # type: ignore[arg-type]  # nothing is sent
        workload=TURNS._replace(turns=1e9),
        slo=Slo(tokens_per_s=8.0, first_token_s=2.0),
        vocab_size=1000,
        tally=Tally(),
        bell=Bell(),
        seed=1,
    )
    first, second = (user._draw(TURNS.output) for _ in range(2))  # what run() asks in turn
    said = first.prompt + chain(first.prompt[-1] + 1, first.num_output, 1000)
    assert first.num_before == 0
    assert second.num_before == len(said)
    assert second.prompt[: len(said)] == said
    assert len(second.prompt) > len(said)


def test_turns_that_return_find_their_conversation_and_are_answered_sooner() -> None:
    setup = replace(Setup(), workload=TURNS, warm_up_s=0.0, measured_s=60.0, kv_tokens=8000)
    presences = [Presence(float(number)) for number in range(6)]
    waited = {}
    for host_kv_tokens in (100_000, 0):
        report = simulate(
            "wisp", presences, replace(setup, host_kv_tokens=host_kv_tokens), Tuning()
        )
        returned = [each for each in report.sessions if each.num_before]
        first_s = [each.attainment.first_token_s or 60.0 for each in returned]
        assert len(returned) > 10
        waited[host_kv_tokens] = sum(first_s) / len(first_s)
        assert (report.found > 0.3) is (host_kv_tokens > 0)
    assert waited[100_000] < 0.8 * waited[0]


def test_host_memory_for_one_conversation_holds_one() -> None:
    setup = replace(Setup(), workload=TURNS, warm_up_s=0.0, measured_s=60.0)
    presences = [Presence(float(number)) for number in range(6)]
    plenty, little = (
        simulate("wisp", presences, replace(setup, host_kv_tokens=tokens), Tuning()).found
        for tokens in (100_000, 1000)
    )
    assert little < 0.5 * plenty


def test_loads_in_turn_are_scored_each_by_itself() -> None:
    times = Times(warm_s=2.0, measure_s=4.0, join_s=0.05)
    windows, report = in_turn("wisp", [4, 12], Setup(), Tuning(), times)
    assert [window.devices for window in windows] == [4, 12]
    assert report.end_s == pytest.approx(2 * (2.0 + 4.0) + 12 * 0.05)
    # Each reads at 8 tokens/s, and is written to as fast as there is time.
    assert windows[0].stats.num_judged < windows[1].stats.num_judged
    assert all(window.attainment == 1.0 for window in windows)
    assert windows[1].goodput > 1.5 * windows[0].goodput > 1.5 * 4 * 8.0
