"""What the server remembers of its sessions, classes and devices, for the metrics and the stats."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from wisp.core.drafts import Source, Verdict
from wisp.core.slo import Attainment, Slo
from wisp.engine.messages import StepReport
from wisp.errors import Shed
from wisp.metrics import ServerMetrics
from wisp.server.sliding_window import SlidingWindow

DEVICE_KEPT_S = 60.0
UNNAMED = "unnamed"
_MAX_NAME = 64


@dataclass
class ClassRecord:
    """Sums since the start; `recent` holds (committed, in time)."""

    name: str
    slo: Slo | None  # None: each session has its own
    priority: int
    recent: SlidingWindow
    committed: Counter  # the metrics of this class that every verdict counts in
    goodput: Counter
    window: Histogram
    num_tokens: int = 0
    num_in_time: int = 0
    num_ended: int = 0
    num_first_token_attained: int = 0
    num_rate_attained: int = 0
    num_shed: int = 0


@dataclass
class DeviceRecord:
    recent: SlidingWindow  # (committed,)
    seen_s: float
    num_sessions: int = 0


@dataclass
class SessionRecord:
    id: int
    device: str | None
    attainment: Attainment
    opened_s: float
    recent: SlidingWindow  # (committed,)
    num_arrived: int = 0  # draft tokens from its edge
    num_verified: int = 0
    closed: bool = False


class Records:
    """Times are arguments, in seconds of the monotonic clock."""

    def __init__(self, slos: list[Slo], metrics: ServerMetrics, now: float) -> None:
        self.start_s = now
        self.sessions: dict[int, SessionRecord] = {}
        self.devices: dict[str, DeviceRecord] = {}
        self.classes: dict[str, ClassRecord] = {}
        # (steps, step time, seats, tokens, prefill, drafted by each source)
        self.steps = SlidingWindow(5 + len(Source), now)
        # (steps, error, over the upper bound, measured, alone)
        self.forecasts = SlidingWindow(5, now)
        self.last_step: StepReport | None = None
        self._metrics = metrics
        for source in Source:
            for drafts in (metrics.verified, metrics.accepted, metrics.rejected):
                drafts.labels(source)  # shown before the first
        for slo in slos:
            self._add_class(slo.name, slo, slo.priority, now)

    def opened(self, session_id: int, slo: Slo, device: str | None, now: float) -> SessionRecord:
        if slo.name not in self.classes:
            self._add_class(slo.name, None, slo.priority, now)
        if device is not None:
            # it is shown in terminals, and anybody may send one
            device = "".join(filter(str.isprintable, device))[:_MAX_NAME] or UNNAMED
            self._forget_devices(now)
            self.devices.setdefault(
                device, DeviceRecord(SlidingWindow(1, now), now)
            ).num_sessions += 1
        record = SessionRecord(session_id, device, Attainment(slo, now), now, SlidingWindow(1, now))
        self.sessions[session_id] = record
        return record

    def took(self, record: SessionRecord, verdict: Verdict) -> None:
        now, num_tokens = verdict.committed_s, len(verdict.tokens)
        slo = record.attainment.slo
        if record.attainment.first_token_s is None:
            self._metrics.first_token_s.observe(now - record.opened_s)
        in_time = record.attainment.add(num_tokens, now)
        record.recent.add(now, num_tokens)
        record.num_verified += verdict.edge_drafts.num_drafted
        kind = self.classes[slo.name]
        kind.num_tokens += num_tokens
        kind.num_in_time += in_time
        kind.recent.add(now, num_tokens, in_time)
        kind.committed.inc(num_tokens)
        kind.goodput.inc(in_time)
        if record.device is not None:
            device = self.devices[record.device]
            device.seen_s = now
            device.recent.add(now, num_tokens)
            kind.window.observe(verdict.directive.window)

    def failed(self, record: SessionRecord, error: Exception) -> None:
        self._metrics.failed.labels(type(error).__name__).inc()
        if isinstance(error, Shed):
            name = record.attainment.slo.name
            self.classes[name].num_shed += 1
            self._metrics.shed.labels(name).inc()

    def closed(self, record: SessionRecord) -> None:
        """On every way out; a second time changes nothing."""
        if record.closed:
            return
        record.closed = True
        del self.sessions[record.id]
        self._metrics.unverified.inc(max(0, record.num_arrived - record.num_verified))
        if record.device is not None:
            self.devices[record.device].num_sessions -= 1
        attainment = record.attainment
        if attainment.first_token_s is None:
            return
        name = attainment.slo.name
        kind = self.classes[name]
        kind.num_ended += 1
        kind.num_first_token_attained += attainment.first_token_attained
        kind.num_rate_attained += attainment.rate_attained
        self._metrics.ended.labels(name).inc()
        self._metrics.first_token_attained.labels(name).inc(attainment.first_token_attained)
        self._metrics.rate_attained.labels(name).inc(attainment.rate_attained)

    def stepped(self, step: StepReport, now: float) -> None:
        self.last_step = step
        self.steps.add(
            now,
            1,
            step.step_time_s,
            step.num_sessions,
            step.num_tokens,
            step.num_prefill,
            *(step.drafts[source].num_drafted for source in Source),
        )
        if forecast := step.forecast:
            error = abs(step.step_time_s / forecast.expected_s - 1.0)
            over = step.step_time_s > forecast.upper_s
            self.forecasts.add(now, 1, error, over, step.step_time_s, forecast.alone_s)

    def num_devices(self, now: float) -> int:
        """With a session now or within the last minute."""
        self._forget_devices(now)
        return len(self.devices)

    def _add_class(self, name: str, slo: Slo | None, priority: int, now: float) -> None:
        self.classes[name] = ClassRecord(
            name,
            slo,
            priority,
            SlidingWindow(2, now),
            self._metrics.class_tokens.labels(name),
            self._metrics.goodput.labels(name),
            self._metrics.window.labels(name),
        )

    def _forget_devices(self, now: float) -> None:
        self.devices = {
            name: device
            for name, device in self.devices.items()
            if device.num_sessions or now - device.seen_s < DEVICE_KEPT_S
        }
