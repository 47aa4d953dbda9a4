"""What the server remembers, on a clock that the test sets."""

from __future__ import annotations

import pytest

from wisp.core.drafts import Directive, DraftCounts, Source, Verdict
from wisp.core.slo import Slo
from wisp.engine.messages import Forecast, SessionState, Snapshot, StepReport
from wisp.errors import Overloaded, Shed
from wisp.metrics import ServerMetrics
from wisp.server.records import Records, SessionRecord
from wisp.server.report import report
from wisp.server.sliding_window import SlidingWindow
from wisp.stats import Stats

GOLD = Slo(name="gold", tokens_per_s=10.0, first_token_s=1.0, priority=1)
CUSTOM = Slo(name="custom", tokens_per_s=3.0, first_token_s=1.0)


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics()


@pytest.fixture
def records(metrics: ServerMetrics) -> Records:
    return Records([GOLD], metrics, now=0.0)


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


def told(records: Records, now: float, *states: SessionState) -> Stats:
    return report(records, Snapshot([*states]), model="m", policy="wisp", max_sessions=8, now=now)


def sample(metrics: ServerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def run(records: Records, slo: Slo, *arrivals: tuple[int, float]) -> SessionRecord:
    """A session of a device, opened at 0 s."""
    record = records.opened(1, slo, "pi", 0.0)
    for num_tokens, now in arrivals:
        records.took(record, verdict(num_tokens, now))
    return record


def test_a_class_counts_what_came_in_time(records: Records, metrics: ServerMetrics) -> None:
    run(records, GOLD, (1, 0.5), (1, 0.6), (1, 9.0))
    assert sample(metrics, "wisp_class_tokens_total", slo_class="gold") == 3
    assert sample(metrics, "wisp_goodput_tokens_total", slo_class="gold") == 2
    (kind,) = told(records, 9.0).classes
    assert (kind.num_tokens, kind.num_in_time) == (3, 2)
    assert kind.goodput_per_s == pytest.approx(2 / 9.0)
    assert kind.committed_per_s == pytest.approx(3 / 9.0)


def test_a_session_ends_once_with_both_promises_judged(
    records: Records, metrics: ServerMetrics
) -> None:
    record = run(records, GOLD, (1, 0.5), (1, 9.0))
    for _ in range(2):
        records.closed(record)
    assert sample(metrics, "wisp_sessions_ended_total", slo_class="gold") == 1
    assert sample(metrics, "wisp_sessions_first_token_attained_total", slo_class="gold") == 1
    assert sample(metrics, "wisp_sessions_rate_attained_total", slo_class="gold") == 0
    (kind,) = told(records, 9.0).classes
    assert (kind.num_ended, kind.num_first_token_attained, kind.num_rate_attained) == (1, 1, 0)
    assert records.sessions == {}


def test_a_session_that_got_nothing_is_judged_by_nothing(
    records: Records, metrics: ServerMetrics
) -> None:
    record = run(records, GOLD)
    records.failed(record, Overloaded("full"))
    records.closed(record)
    (kind,) = told(records, 1.0).classes
    assert (kind.num_ended, kind.num_shed) == (0, 0)
    assert sample(metrics, "wisp_failed_total", reason="Overloaded") == 1


def test_who_was_shed_is_counted_by_class(records: Records, metrics: ServerMetrics) -> None:
    records.failed(run(records, GOLD), Shed("room"))
    assert sample(metrics, "wisp_shed_total", slo_class="gold") == 1
    assert told(records, 1.0).classes[0].num_shed == 1


def test_drafts_that_were_never_verified_are_wasted(
    records: Records, metrics: ServerMetrics
) -> None:
    record = run(records, GOLD)
    record.num_arrived = 10
    records.took(record, verdict(3, 0.1, num_drafted=4))
    records.closed(record)
    assert sample(metrics, "wisp_drafts_unverified_total") == 6


def test_drafts_of_every_source_are_told_before_the_first(
    records: Records, metrics: ServerMetrics
) -> None:
    for source in Source:
        assert sample(metrics, "wisp_drafts_verified_total", source=source) == 0


def test_numbers_of_ones_own_are_a_class_of_their_own(records: Records) -> None:
    run(records, CUSTOM, (1, 0.5))
    gold, custom = told(records, 1.0, state(1)).classes
    assert (gold.name, gold.tokens_per_s, gold.num_sessions) == ("gold", 10.0, 0)
    assert (custom.name, custom.tokens_per_s, custom.num_sessions) == ("custom", None, 1)


def test_a_device_is_known_for_a_minute_after_its_last_session(records: Records) -> None:
    record = run(records, GOLD, (1, 5.0))
    records.took(record, verdict(1, 6.0))
    assert records.num_devices(1000.0) == 1  # its session is still open
    records.closed(record)
    assert records.num_devices(65.0) == 1
    assert records.num_devices(66.0) == 0
    assert told(records, 66.0).devices == []


@pytest.mark.parametrize(
    ("sent", "kept"), [("x" * 1000, "x" * 64), ("a\x1b[2J\nb", "a[2Jb"), ("", "unnamed")]
)
def test_a_devices_name_can_be_shown(records: Records, sent: str, kept: str) -> None:
    assert records.opened(1, GOLD, sent, 0.0).device == kept
    assert records.devices.keys() == {kept}


def test_sessions_and_devices_join_what_the_engine_knows(records: Records) -> None:
    run(records, GOLD, (2, 1.0))
    records.opened(2, GOLD, "pi", 0.0)
    records.opened(3, GOLD, None, 0.0)
    stats = told(records, 2.0, state(1, window=8), state(2), state(3, window=0), state(99))
    assert [session.id for session in stats.sessions] == [1, 2, 3]  # 99 has just ended
    first = stats.sessions[0]
    assert (first.device, first.slo_class, first.priority) == ("pi", "gold", 1)
    assert (first.promised_per_s, first.committed_per_s) == (10.0, 1.0)
    assert (first.share_in_time, first.acceptance, first.num_buffered) == (1.0, 0.75, 2)
    (device,) = stats.devices
    assert (device.num_sessions, device.window, device.round_trip_s) == (2, 6.0, 0.02)
    assert stats.classes[0].window == 6.0


def test_steps_are_told_as_means_over_the_last_seconds(records: Records) -> None:
    assert told(records, 0.0).batch is None
    assert told(records, 0.0).estimator is None
    records.stepped(step(step_time_s=9.0), 1.0)  # forgotten below
    for now in (20.0, 21.0):
        records.stepped(step(0.2, Forecast(0.1, 0.15, 1.5, 0.05)), now)
    stats = told(records, 22.0)
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
