"""What the server remembers, on a clock that the test sets."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from msgspec import structs

from wisp.core.drafts import Directive, DraftCounts, Rejection, Source, Verdict
from wisp.core.request import FinishReason
from wisp.core.slo import Slo
from wisp.engine.messages import Forecast, KvReport, SessionState, Snapshot, StepReport
from wisp.errors import Overloaded, Shed
from wisp.metrics import metrics_router
from wisp.server.report import report
from wisp.server.server_metrics import ServerMetrics
from wisp.server.sliding_window import SlidingWindow
from wisp.server.telemetry import SessionRecord, Telemetry
from wisp.stats import KvStats, Stats
from wisp.testing.verifier import ScriptedVerifier

GOLD = Slo(name="gold", tokens_per_s=10.0, first_token_s=1.0, priority=1)
CUSTOM = Slo(name="custom", tokens_per_s=3.0, first_token_s=1.0)


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics()


@pytest.fixture
def telemetry(metrics: ServerMetrics) -> Telemetry:
    return Telemetry([GOLD], metrics, now=0.0)


def verdict(num_tokens: int, now: float, num_drafted: int = 0, window: int = 4) -> Verdict:
    return Verdict(
        position=0,
        tokens=[1] * num_tokens,
        num_drafted=num_drafted,
        directive=Directive(window, 0.5),
        committed_s=now,
    )


def step(step_time_s: float = 0.1, forecast: Forecast | None = None) -> StepReport:
    return StepReport(
        num_sessions=2,
        num_tokens=12,
        num_prefill=6,
        drafts={Source.EDGE: DraftCounts(4, 3), Source.NGRAM: DraftCounts(1, 0)},
        num_committed=5,
        step_time_s=step_time_s,
        loop_time_s=step_time_s,
        forecast=forecast,
        marginal_cost=0.25,
    )


def state(session_id: int, window: int = 4) -> SessionState:
    return SessionState(
        session_id=session_id,
        prefilling=False,
        num_output=3,
        num_buffered=2,
        window=window,
        threshold=0.5,
        acceptance=0.75,
        round_trip_s=0.02,
        draft_time_s=0.005,
        slack_s=0.1,
    )


def told(telemetry: Telemetry, now: float, *states: SessionState) -> Stats:
    facts = ScriptedVerifier(model="m", max_sessions=8).facts
    return report(telemetry, Snapshot([*states]), facts=facts, policy="wisp", now=now)


@pytest.mark.parametrize("exact", [True, False, None])
def test_stats_say_whether_texts_may_differ_in_near_ties(
    telemetry: Telemetry, exact: bool | None
) -> None:
    facts = structs.replace(ScriptedVerifier().facts, exact=exact)
    stats = report(telemetry, Snapshot([]), facts=facts, policy="wisp", now=1.0)
    assert stats.exact is exact


def sample(metrics: ServerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def run(telemetry: Telemetry, slo: Slo, *arrivals: tuple[int, float]) -> SessionRecord:
    """A session of a device, opened at 0 s."""
    record = telemetry.opened(1, slo, "pi", 0.0)
    for num_tokens, now in arrivals:
        telemetry.took(record, verdict(num_tokens, now))
    return record


def test_a_class_counts_what_came_in_time(telemetry: Telemetry, metrics: ServerMetrics) -> None:
    run(telemetry, GOLD, (1, 0.5), (1, 0.6), (1, 9.0))
    assert sample(metrics, "wisp_class_tokens_total", slo_class="gold") == 3
    assert sample(metrics, "wisp_goodput_tokens_total", slo_class="gold") == 2
    (kind,) = told(telemetry, 9.0).classes
    assert (kind.num_tokens, kind.num_in_time) == (3, 2)
    assert kind.goodput_per_s == pytest.approx(2 / 9.0)
    assert kind.committed_per_s == pytest.approx(3 / 9.0)


def test_a_session_ends_once_with_both_promises_judged(
    telemetry: Telemetry, metrics: ServerMetrics
) -> None:
    record = run(telemetry, GOLD, (1, 0.5), (1, 9.0))
    for _ in range(2):
        telemetry.closed(record)
    assert sample(metrics, "wisp_sessions_ended_total", slo_class="gold") == 1
    assert sample(metrics, "wisp_sessions_first_token_attained_total", slo_class="gold") == 1
    assert sample(metrics, "wisp_sessions_rate_attained_total", slo_class="gold") == 0
    (kind,) = told(telemetry, 9.0).classes
    assert (kind.num_ended, kind.num_first_token_attained, kind.num_rate_attained) == (1, 1, 0)
    assert telemetry.sessions == {}


def test_a_session_that_got_nothing_is_judged_by_nothing(
    telemetry: Telemetry, metrics: ServerMetrics
) -> None:
    record = run(telemetry, GOLD)
    telemetry.failed(record, Overloaded("full"))
    telemetry.closed(record)
    (kind,) = told(telemetry, 1.0).classes
    assert (kind.num_ended, kind.num_shed) == (0, 0)
    assert sample(metrics, "wisp_failed_total", reason="Overloaded") == 1


def test_who_was_shed_is_counted_by_class(telemetry: Telemetry, metrics: ServerMetrics) -> None:
    telemetry.failed(run(telemetry, GOLD), Shed("room"))
    assert sample(metrics, "wisp_shed_total", slo_class="gold") == 1
    assert told(telemetry, 1.0).classes[0].num_shed == 1


def test_drafts_that_were_never_verified_are_wasted(
    telemetry: Telemetry, metrics: ServerMetrics
) -> None:
    record = run(telemetry, GOLD)
    record.num_arrived = 10
    telemetry.took(record, verdict(3, 0.1, num_drafted=4))
    telemetry.closed(record)
    assert sample(metrics, "wisp_drafts_unverified_total") == 6


def test_drafts_of_every_source_are_told_before_the_first(
    telemetry: Telemetry, metrics: ServerMetrics
) -> None:
    for source in Source:
        assert sample(metrics, "wisp_drafts_verified_total", source=source) == 0


def test_numbers_of_ones_own_are_a_class_of_their_own(telemetry: Telemetry) -> None:
    run(telemetry, CUSTOM, (1, 0.5))
    gold, custom = told(telemetry, 1.0, state(1)).classes
    assert (gold.name, gold.tokens_per_s, gold.num_sessions) == ("gold", 10.0, 0)
    assert (custom.name, custom.tokens_per_s, custom.num_sessions) == ("custom", None, 1)


def test_a_device_is_known_for_a_minute_after_its_last_session(telemetry: Telemetry) -> None:
    record = run(telemetry, GOLD, (1, 5.0))
    telemetry.took(record, verdict(1, 6.0))
    assert telemetry.num_devices(1000.0) == 1  # its session is still open
    telemetry.closed(record)
    assert telemetry.num_devices(65.0) == 1
    assert telemetry.num_devices(66.0) == 0
    assert told(telemetry, 66.0).devices == []


def test_a_devices_rejections_are_told_with_the_share_that_forks_covered(
    telemetry: Telemetry, metrics: ServerMetrics
) -> None:
    record = telemetry.opened(1, GOLD, "pi", 0.0)
    for rejection in (None, Rejection.UNCOVERED, Rejection.COVERED, Rejection.SEAMLESS):
        telemetry.took(record, structs.replace(verdict(1, 1.0), rejection=rejection))
    (device,) = told(telemetry, 1.0).devices
    assert device.coverage == pytest.approx(2 / 3)
    (later,) = told(telemetry, 30.0).devices
    assert later.coverage is None
    for rejection in Rejection:
        name = "wisp_edge_stream_rejections_total"
        assert metrics.registry.get_sample_value(name, {"outcome": rejection}) == 1


@pytest.mark.parametrize(
    ("sent", "kept"), [("x" * 1000, "x" * 64), ("a\x1b[2J\nb", "a[2Jb"), ("", "unnamed")]
)
def test_a_devices_name_can_be_shown(telemetry: Telemetry, sent: str, kept: str) -> None:
    assert telemetry.opened(1, GOLD, sent, 0.0).device == kept
    assert telemetry.devices.keys() == {kept}


def test_sessions_and_devices_join_what_the_engine_knows(telemetry: Telemetry) -> None:
    run(telemetry, GOLD, (2, 1.0))
    telemetry.opened(2, GOLD, "pi", 0.0)
    telemetry.opened(3, GOLD, None, 0.0)
    stats = told(telemetry, 2.0, state(1, window=8), state(2), state(3, window=0), state(99))
    assert [session.id for session in stats.sessions] == [1, 2, 3]  # 99 has just ended
    first = stats.sessions[0]
    assert (first.device, first.slo_class, first.priority) == ("pi", "gold", 1)
    assert (first.promised_per_s, first.committed_per_s) == (10.0, 1.0)
    assert (first.share_in_time, first.acceptance, first.num_buffered) == (1.0, 0.75, 2)
    (device,) = stats.devices
    assert (device.num_sessions, device.window, device.round_trip_s) == (2, 6.0, 0.02)
    assert stats.classes[0].window == 6.0


def test_steps_are_told_as_means_over_the_last_seconds(telemetry: Telemetry) -> None:
    assert told(telemetry, 0.0).batch is None
    assert told(telemetry, 0.0).estimator is None
    telemetry.stepped(step(step_time_s=9.0), 1.0)  # forgotten below
    for now in (20.0, 21.0):
        telemetry.stepped(step(0.2, Forecast(0.1, 0.15, 1.5, 0.05)), now)
    stats = told(telemetry, 22.0)
    assert stats.batch is not None
    assert stats.batch.steps_per_s == pytest.approx(0.2)
    assert stats.batch.busy_share == pytest.approx(0.04)
    assert stats.batch.step_time_s == pytest.approx(0.2)
    assert (stats.batch.num_tokens, stats.batch.num_prefill) == (12, 6)
    assert stats.batch.num_drafted == {"edge": 4.0, "ngram": 1.0}
    assert stats.batch.num_plain == 1.0
    assert stats.estimator is not None
    assert stats.estimator.error_ratio == pytest.approx(1.0)
    assert (stats.estimator.over_upper_share, stats.estimator.drift) == (1.0, 1.5)
    assert stats.interference == pytest.approx(4.0)
    assert stats.marginal_cost == 0.25


def test_a_sliding_window_forgets() -> None:
    window = SlidingWindow(2, 100.0)
    window.add(100.0, 1.0, 2.0)
    window.add(105.0, 3.0, 4.0)
    assert window.sums(105.0) == [4.0, 6.0]
    assert list(window.per_s(105.0)) == pytest.approx([0.8, 1.2])
    assert window.sums(110.0) == [3.0, 4.0]
    assert window.sums(200.0) == [0.0, 0.0]


def test_a_resumed_session_counts_once(telemetry: Telemetry, metrics: ServerMetrics) -> None:
    for resumed in (False, True):
        record = telemetry.opened(int(resumed) + 1, GOLD, "edge", 0.0, resumed=resumed)
        telemetry.took(record, verdict(1, 0.5))
        telemetry.closed(record)
    assert telemetry.classes["gold"].num_ended == 1
    value = metrics.registry.get_sample_value
    assert value("wisp_first_token_seconds_count") == 1
    assert value("wisp_sessions_ended_total", {"slo_class": "gold"}) == 1


def test_gateways_read_who_waits_and_who_runs(telemetry: Telemetry, metrics: ServerMetrics) -> None:
    telemetry.serves("m")
    first = telemetry.opened(1, GOLD, None, 0.0)
    telemetry.opened(2, GOLD, None, 0.0)
    telemetry.took(first, verdict(1, 0.5))
    telemetry.stepped(structs.replace(step(), kv_used=0.25), 0.5)
    assert sample(metrics, "vllm:num_requests_running", model_name="m") == 1
    assert sample(metrics, "vllm:num_requests_waiting", model_name="m") == 1
    assert sample(metrics, "vllm:kv_cache_usage_perc", model_name="m") == 0.25
    for record in list(telemetry.sessions.values()):
        telemetry.closed(record)
    assert sample(metrics, "vllm:kv_cache_usage_perc", model_name="m") == 0.0


def test_latencies_are_of_tokens_and_of_whole_sessions(
    telemetry: Telemetry, metrics: ServerMetrics
) -> None:
    record = telemetry.opened(1, GOLD, None, 0.0, num_prompt=7)
    telemetry.took(record, verdict(1, 0.5))
    telemetry.took(record, verdict(4, 0.9))
    telemetry.took(record, structs.replace(verdict(1, 1.0), finish_reason=FinishReason.LENGTH))
    telemetry.closed(record)
    assert sample(metrics, "wisp_prompt_tokens_total") == 7
    assert sample(metrics, "wisp_inter_token_seconds_count") == 5
    assert sample(metrics, "wisp_inter_token_seconds_sum") == pytest.approx(0.5)
    assert sample(metrics, "wisp_session_seconds_sum") == pytest.approx(1.0)


def test_what_ended_a_session_is_counted_once(telemetry: Telemetry, metrics: ServerMetrics) -> None:
    left, failed, done = (telemetry.opened(number, GOLD, None, 0.0) for number in range(3))
    telemetry.failed(failed, Overloaded("full"))
    telemetry.took(done, structs.replace(verdict(1, 1.0), finish_reason=FinishReason.STOP))
    for record in (left, failed, done, done):
        telemetry.closed(record)
    counted = {
        reason: sample(metrics, "wisp_sessions_finished_total", reason=reason)
        for reason in ("stop", "length", "error", "closed")
    }
    assert counted == {"stop": 1, "length": 0, "error": 1, "closed": 1}


async def test_prometheus_gets_the_names_that_gateways_read(metrics: ServerMetrics) -> None:
    metrics.gateway.kv_used.labels("m").set(0.5)
    app = FastAPI()
    app.include_router(metrics_router(metrics.registry))
    transport = httpx.ASGITransport(app)
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'vllm:kv_cache_usage_perc{model_name="m"} 0.5\n' in answer.text


def test_a_metric_of_the_process_is_shown(metrics: ServerMetrics) -> None:
    memory = sample(metrics, "process_resident_memory_bytes")
    assert memory is not None
    assert memory > 0


def test_parked_sessions_are_told_and_counted(telemetry: Telemetry) -> None:
    telemetry.opened(1, GOLD, None, 0.0)
    kv = KvReport(1, 2, 300, 200, 100, 3)
    telemetry.stepped(structs.replace(step(), kv=kv), 0.5)
    stats = told(telemetry, 1.0, structs.replace(state(1), parked=True))
    assert stats.num_parked == 1
    assert stats.sessions[0].state == "parked"
    assert stats.kv == KvStats(  # of the first second
        num_parked=1,
        num_waiting=2,
        parked_per_s=300.0,
        loaded_per_s=200.0,
        evicted_per_s=100.0,
        late_loads_per_s=3.0,
    )
    sample = telemetry.metrics.registry.get_sample_value
    assert sample("wisp_sessions_parked") == 1
    assert sample("wisp_sessions_waiting_for_kv") == 2
    assert sample("wisp_kv_parked_tokens_total") == 300
    assert sample("wisp_kv_loaded_tokens_total") == 200
    assert sample("wisp_kv_evicted_tokens_total") == 100
    assert sample("wisp_kv_late_loads_total") == 3
