"""/v1/stats: what the records and a snapshot of the engine tell, joined."""

from __future__ import annotations

from collections.abc import Iterable

from wisp.core.drafts import Source
from wisp.engine.messages import SessionState, Snapshot
from wisp.server.records import ClassRecord, DeviceRecord, Records, SessionRecord
from wisp.stats import (
    BatchStats,
    ClassStats,
    DeviceStats,
    EstimatorStats,
    SessionStats,
    Stats,
)

Pair = tuple[SessionRecord, SessionState]


def report(
    records: Records, snapshot: Snapshot, *, model: str, policy: str, max_sessions: int, now: float
) -> Stats:
    records.num_devices(now)  # forgets those long gone
    pairs = [
        (record, state)
        for state in snapshot.sessions
        if (record := records.sessions.get(state.session_id))  # else it has just ended
    ]
    classes = [_class(kind, pairs, now) for kind in records.classes.values()]
    _, _, _, measured_s, alone_s = records.forecasts.sums(now)
    return Stats(
        model=model,
        policy=policy,
        uptime_s=now - records.start_s,
        max_sessions=max_sessions,
        num_sessions=len(pairs),
        num_with_edge=sum(record.device is not None for record, _ in pairs),
        committed_per_s=sum(kind.committed_per_s for kind in classes),
        goodput_per_s=sum(kind.goodput_per_s for kind in classes),
        marginal_cost=records.last_step.marginal_cost if records.last_step else None,
        interference=measured_s / alone_s if alone_s else None,
        batch=_batch(records, now),
        estimator=_estimator(records, now),
        classes=classes,
        devices=_devices(records, pairs, now),
        sessions=[_session(record, state, now) for record, state in pairs],
    )


def _batch(records: Records, now: float) -> BatchStats | None:
    steps, time_s, seats, tokens, prefill, *drafted = records.steps.sums(now)
    if not steps:
        return None
    per_s = records.steps.per_s(now)
    return BatchStats(
        steps_per_s=per_s[0],
        busy_share=min(1.0, per_s[1]),
        step_time_s=time_s / steps,
        num_sessions=seats / steps,
        num_tokens=tokens / steps,
        num_prefill=prefill / steps,
        num_drafted={
            source: number / steps for source, number in zip(Source, drafted, strict=True)
        },
        num_plain=(tokens - prefill - sum(drafted)) / steps,
    )


def _estimator(records: Records, now: float) -> EstimatorStats | None:
    steps, error, over, _, _ = records.forecasts.sums(now)
    last = records.last_step and records.last_step.forecast
    if not steps or not last:
        return None
    return EstimatorStats(
        error_ratio=error / steps, over_upper_share=over / steps, drift=last.drift
    )


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


def _devices(records: Records, pairs: list[Pair], now: float) -> list[DeviceStats]:
    states: dict[str, list[SessionState]] = {name: [] for name in records.devices}
    for record, state in pairs:
        if record.device is not None:
            states[record.device].append(state)
    return [_device(name, device, states[name], now) for name, device in records.devices.items()]


def _device(name: str, device: DeviceRecord, mine: list[SessionState], now: float) -> DeviceStats:
    return DeviceStats(
        name=name,
        num_sessions=device.num_sessions,
        idle_s=now - device.seen_s,
        committed_per_s=device.recent.per_s(now)[0],
        acceptance=_mean(state.acceptance for state in mine),
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
        state="prefill" if state.prefilling else "decode",
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
