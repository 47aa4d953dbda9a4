"""/v1/stats: what the telemetry and a snapshot of the engine tell, joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from wisp.engine.messages import Forecast, SessionState, Snapshot, StepReport
from wisp.server.sliding_window import seconds_seen
from wisp.server.telemetry import (
    ClassRecord,
    DeviceRecord,
    SessionRecord,
    Telemetry,
)
from wisp.stats import (
    BatchStats,
    ClassStats,
    DeviceStats,
    EstimatorStats,
    KvStats,
    SessionStats,
    Stats,
)
from wisp.verifier.base import Facts

Pair = tuple[SessionRecord, SessionState]


def report(
    telemetry: Telemetry, snapshot: Snapshot, *, facts: Facts, policy: str, now: float
) -> Stats:
    telemetry.num_devices(now)  # forgets those long gone
    pairs = [
        (record, state)
        for state in snapshot.sessions
        if (record := telemetry.sessions.get(state.session_id))  # else it has just ended
    ]
    classes = [_class(kind, pairs, now) for kind in telemetry.classes.values()]
    steps, last = telemetry.steps(now), telemetry.last_step
    return Stats(
        model=facts.model,
        exact=facts.exact,
        policy=policy,
        uptime_s=now - telemetry.start_s,
        max_sessions=facts.max_sessions,
        num_sessions=len(pairs),
        num_with_edge=sum(record.device is not None for record, _ in pairs),
        num_parked=sum(state.parked for _, state in pairs),
        committed_per_s=sum(kind.committed_per_s for kind in classes),
        goodput_per_s=sum(kind.goodput_per_s for kind in classes),
        marginal_cost=last.marginal_cost if last else None,
        interference=_interference(steps),
        batch=_batch(steps, seconds_seen(telemetry.start_s, now)),
        kv=_kv(steps, seconds_seen(telemetry.start_s, now)),
        estimator=_estimator(steps),
        classes=classes,
        devices=_devices(telemetry, pairs, now),
        sessions=[_session(record, state, now) for record, state in pairs],
    )


def _batch(steps: Sequence[StepReport], elapsed_s: float) -> BatchStats | None:
    if not steps:
        return None

    def mean(figure: Callable[[StepReport], float]) -> float:
        return sum(map(figure, steps)) / len(steps)

    return BatchStats(
        steps_per_s=len(steps) / elapsed_s,
        busy_share=min(1.0, sum(step.step_time_s for step in steps) / elapsed_s),
        step_time_s=mean(lambda step: step.step_time_s),
        num_sessions=mean(lambda step: step.num_sessions),
        num_tokens=mean(lambda step: step.num_tokens),
        num_prefill=mean(lambda step: step.num_prefill),
        num_drafted={
            source: sum(step.drafts[source].num_drafted for step in steps) / len(steps)
            for source in steps[0].drafts
        },
        num_plain=mean(lambda step: step.num_plain),
    )


def _kv(steps: Sequence[StepReport], elapsed_s: float) -> KvStats | None:
    if not steps:
        return None
    reports = [step.kv for step in steps]
    return KvStats(
        num_parked=reports[-1].num_parked,
        num_waiting=reports[-1].num_waiting,
        parked_per_s=sum(kv.num_parked_tokens for kv in reports) / elapsed_s,
        loaded_per_s=sum(kv.num_loaded_tokens for kv in reports) / elapsed_s,
        evicted_per_s=sum(kv.num_evicted_tokens for kv in reports) / elapsed_s,
        late_loads_per_s=sum(kv.num_late_loads for kv in reports) / elapsed_s,
    )


def _estimator(steps: Sequence[StepReport]) -> EstimatorStats | None:
    told = _forecasts(steps)
    if not told:
        return None
    return EstimatorStats(
        error_ratio=sum(said.error(took_s) for said, took_s in told) / len(told),
        over_upper_share=sum(took_s > said.upper_s for said, took_s in told) / len(told),
        drift=told[-1][0].drift,
    )


def _interference(steps: Sequence[StepReport]) -> float | None:
    told = _forecasts(steps)
    alone_s = sum(said.alone_s for said, _ in told)
    return sum(took_s for _, took_s in told) / alone_s if alone_s else None


def _forecasts(steps: Sequence[StepReport]) -> list[tuple[Forecast, float]]:
    """Of the steps that had one, beside the time that they took."""
    return [(step.forecast, step.step_time_s) for step in steps if step.forecast]


def _class(kind: ClassRecord, pairs: list[Pair], now: float) -> ClassStats:
    mine = [(r, state) for r, state in pairs if r.attainment.slo.name == kind.name]
    committed_per_s, goodput_per_s = kind.recent.per_s(now)
    return ClassStats(
        name=kind.name,
        tokens_per_s=kind.slo.tokens_per_s if kind.slo else None,
        first_token_s=kind.slo.first_token_s if kind.slo else None,
        priority=kind.priority,
        num_sessions=len(mine),
        committed_per_s=committed_per_s,
        goodput_per_s=goodput_per_s,
        num_tokens=kind.num_tokens,
        num_in_time=kind.num_in_time,
        num_ended=kind.num_ended,
        num_first_token_attained=kind.num_first_token_attained,
        num_rate_attained=kind.num_rate_attained,
        num_shed=kind.num_shed,
        window=_mean(state.window for r, state in mine if r.device is not None),
    )


def _devices(telemetry: Telemetry, pairs: list[Pair], now: float) -> list[DeviceStats]:
    states: dict[str, list[SessionState]] = {name: [] for name in telemetry.devices}
    for record, state in pairs:
        if record.device is not None:
            states[record.device].append(state)
    return [_device(name, device, states[name], now) for name, device in telemetry.devices.items()]


def _device(name: str, device: DeviceRecord, mine: list[SessionState], now: float) -> DeviceStats:
    _, num_rejections, num_covered = device.recent.sums(now)
    return DeviceStats(
        name=name,
        num_sessions=device.num_sessions,
        idle_s=now - device.seen_s,
        committed_per_s=device.recent.per_s(now)[0],
        acceptance=_mean(state.acceptance for state in mine),
        coverage=num_covered / num_rejections if num_rejections else None,
        round_trip_s=_mean(state.round_trip_s for state in mine),
        window=_mean(state.window for state in mine),
    )


def _session(record: SessionRecord, state: SessionState, now: float) -> SessionStats:
    attainment = record.attainment
    num_tokens = attainment.num_tokens
    return SessionStats(
        id=record.id,
        device=record.device,
        slo_class=attainment.slo.name,
        priority=attainment.slo.priority,
        state="parked" if state.parked else "prefill" if state.prefilling else "decode",
        age_s=now - record.opened_s,
        num_output=state.num_output,
        promised_per_s=attainment.slo.tokens_per_s,
        committed_per_s=record.recent.per_s(now)[0],
        share_in_time=attainment.num_in_time / num_tokens if num_tokens else None,
        slack_s=state.slack_s,
        acceptance=state.acceptance,
        window=state.window,
        threshold=state.threshold,
        num_buffered=state.num_buffered,
        round_trip_s=state.round_trip_s,
        draft_time_s=state.draft_time_s,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
