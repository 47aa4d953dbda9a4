from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.sim.colocated import Colocated
from benchmarks.sim.fleet import Report, Setup, simulate
from benchmarks.sim.profiles import LAPTOP, RASPBERRY_PI_5, WIRED
from benchmarks.sim.step_times import (
    A100,
    HOST,
    NO_HOST,
    QWEN3_32B,
    implied_by_paper,
    roofline,
)
from benchmarks.sim.target import SimulatedTarget
from benchmarks.sim.text import BetaTexts, RecordedTexts
from benchmarks.sim.workload import Lengths, Presence, Workload, bursty
from benchmarks.simulate import RECORDED
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.edge.predictor import LogisticPredictor
from wisp.scheduler.tuning import POLICIES, PolicyName, Tuning

SHORT = Workload(Lengths(32.0), Lengths(64.0), think_s=0.5)
SETUP = Setup(workload=SHORT, warm_up_s=2.0, measured_s=20.0)


def facts(report: Report) -> list[object]:
    """All of it that a user could see."""
    return [
        (
            each.device,
            each.opened_s,
            each.ended_s,
            each.num_drafted,
            each.num_accepted,
            each.attainment.num_in_time,
            each.attainment.tokens_per_s,
        )
        for each in report.sessions
    ]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_small_fleet_is_served_by_every_policy(policy: PolicyName) -> None:
    report = simulate(policy, 8, SETUP, Tuning())
    ended = [each for each in report.sessions if each.ended_s is not None]
    assert len(ended) >= 8
    assert all(each.attainment.first_token_attained for each in ended)
    drafted = sum(each.num_drafted for each in ended)
    assert (drafted > 0) == (policy != "centralized")
    assert report.goodput <= report.tokens_per_s


@pytest.mark.parametrize("policy", ["wisp", "sled"])
def test_the_same_seed_gives_the_same_result_and_another_does_not(policy: PolicyName) -> None:
    first, again = (simulate(policy, 12, SETUP, Tuning()) for _ in range(2))
    other = simulate(policy, 12, replace(SETUP, seed=2), Tuning())
    assert facts(first) == facts(again)
    assert facts(first) != facts(other)


def test_devices_ask_for_the_same_whatever_serves_them() -> None:
    """Common random numbers: a comparison of policies compares nothing else."""
    lengths = []
    for policy in ("wisp", "centralized"):
        report = simulate(policy, 6, replace(SETUP, warm_up_s=0.0), Tuning())
        first: dict[int, int] = {}
        for each in report.sessions:
            if each.ended_s is not None:
                first.setdefault(each.device, each.attainment.num_tokens)
        lengths.append(first)
    assert lengths[0] == lengths[1]


def test_plain_decoding_takes_a_step_for_each_token() -> None:
    step_times = roofline(A100, QWEN3_32B)._replace(noise=0.0)
    setup = replace(
        SETUP, step_times=step_times, host=NO_HOST, networks=(WIRED._replace(jitter_s=0.0),)
    )
    report = simulate("centralized", 1, setup, Tuning())
    rates = [each.attainment.tokens_per_s for each in report.sessions if each.ended_s]
    step_s = step_times.floor_s + step_times.seat_s + 96 * step_times.context_s
    assert all(rate == pytest.approx(1.0 / step_s, rel=0.02) for rate in rates if rate)


def test_a_running_step_hides_the_host_and_one_by_one_steps_wait_for_it() -> None:
    host = HOST._replace(launch_s=10e-3)
    free = simulate("centralized", 8, replace(SETUP, host=NO_HOST), Tuning())
    hidden = simulate("centralized", 8, replace(SETUP, host=host), Tuning())
    waiting = simulate("centralized", 8, replace(SETUP, host=host, overlap=False), Tuning())
    assert hidden.num_steps > 0.95 * free.num_steps
    assert waiting.num_steps < 0.88 * free.num_steps


def test_whoever_was_there_before_the_warm_up_ended_is_judged() -> None:
    report = simulate("centralized", 8, replace(SETUP, warm_up_s=10.0), Tuning())
    assert any(each.opened_s < 10.0 for each in report.sessions)
    assert all(each.ended_s is None or each.ended_s >= 10.0 for each in report.sessions)


def test_no_policy_is_told_how_long_an_answer_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = set()
    taken = SimulatedTarget.open

    def seen(target: SimulatedTarget, session: Session) -> int:
        limits.add(session.num_remaining)
        return taken(target, session)

    monkeypatch.setattr(SimulatedTarget, "open", seen)
    report = simulate("fcfs", 4, replace(SETUP, warm_up_s=0.0), Tuning())
    ended = {each.attainment.num_tokens for each in report.sessions if each.ended_s is not None}
    assert len(ended) > 2  # answers of all lengths
    assert SHORT.max_tokens in limits
    assert not limits & ended


def test_a_drafter_on_the_gpu_is_worth_its_time_where_steps_are_long() -> None:
    plain, drafted = (
        simulate("centralized", 8, replace(SETUP, colocated=own), Tuning())
        for own in (None, Colocated(4, 0.7, 0.1))
    )
    assert drafted.tokens_per_s > 1.5 * plain.tokens_per_s


def test_a_draft_takes_longer_behind_a_long_text() -> None:
    assert LAPTOP.draft_s(3500) == pytest.approx(2.0 * LAPTOP.draft_s(0))


def test_perfect_drafts_are_all_accepted() -> None:
    texts = BetaTexts(0.999, spread=1e4, noise=0.0)
    setup = replace(SETUP, texts=texts, devices=(LAPTOP,), networks=(WIRED,))
    report = simulate("fcfs", 2, setup, Tuning())
    ended = [each for each in report.sessions if each.ended_s is not None]
    assert sum(each.num_rounds for each in ended) < 0.5 * sum(
        each.attainment.num_tokens for each in ended
    )
    assert report.acceptance > 0.8


def test_what_does_not_fit_the_memory_waits_or_is_computed_again() -> None:
    """Each of three devices comes to need nearly all of it."""
    work = Workload(Lengths(32.0, sigma=0.0), Lengths(64.0, sigma=0.0), think_s=0.5)
    slo = Slo(tokens_per_s=8.0, first_token_s=0.5)
    setup = replace(SETUP, workload=work, kv_tokens=100, slo=slo)
    alone, crowded = (simulate("centralized", count, setup, Tuning()) for count in (1, 3))
    assert alone.attainment == 1.0
    assert crowded.attainment < 0.8
    assert crowded.tokens_per_s < alone.tokens_per_s * 2.0
    ended = [each for each in crowded.sessions if each.ended_s is not None]
    assert ended
    assert all(each.attainment.num_tokens == 64 for each in ended)


def test_a_device_that_left_asks_no_more() -> None:
    gone = [Presence(0.0, 5.0)]
    report = simulate("centralized", gone, replace(SETUP, warm_up_s=0.0), Tuning())
    assert report.sessions
    assert all(each.opened_s <= 5.0 for each in report.sessions)


def test_a_burst_lies_between_its_ends() -> None:
    presences = bursty(base=5, peak=20, start_s=30.0, length_s=10.0, ramp_s=2.0, seed=1)
    there = [sum(p.start_s <= time <= p.end_s for p in presences) for time in (29.0, 35.0, 45.0)]
    assert there == [5, 20, 5]


def test_slow_edges_do_not_hold_their_users_up() -> None:
    """Law 2: with a drafter slower than the promise, the promise is held all the same."""
    crawling = RASPBERRY_PI_5._replace(tokens_per_s=0.5)
    setup = replace(SETUP, devices=(crawling,))
    assert simulate("wisp", 4, setup, Tuning()).attainment == 1.0


def test_the_step_times_implied_by_the_paper_gives_back_its_throughput() -> None:
    step_times = implied_by_paper(A100, QWEN3_32B)._replace(noise=0.0, product_s=0.0)
    setup = replace(
        SETUP, step_times=step_times, workload=Workload(Lengths(8.0, sigma=0.0), Lengths(200.0))
    )
    report = simulate("centralized", 41, setup, Tuning())
    assert report.tokens_per_s == pytest.approx(1.0 / 3.07e-3, rel=0.1)


def test_a_recorded_pair_is_replayed_with_the_edge_s_own_predictor() -> None:
    texts = RecordedTexts(RECORDED, 0.0)
    setup = replace(SETUP, texts=texts, predictor=LogisticPredictor, measured_s=30.0)
    report = simulate("wisp", 6, setup, Tuning())
    assert report.attainment == 1.0
    # Drafts made in vain count, too, and edges draft on down to a cumulative acceptance of 0.02.
    assert 0.4 * texts.acceptance < report.acceptance < texts.acceptance
