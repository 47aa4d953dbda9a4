"""What the server remembers of its steps, sessions, classes and devices, and counts in metrics."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from wisp.core.drafts import Rejection, Source, Verdict
from wisp.core.slo import Attainment, Slo
from wisp.engine.messages import StepReport
from wisp.errors import InternalError, Overloaded, Shed, Unavailable, WispError
from wisp.server.server_metrics import ServerMetrics
from wisp.server.sliding_window import BUCKET_S, HORIZON_S, SlidingWindow

UNNAMED = "unnamed"

# How long a device is shown after its last session. Chosen: a person between two requests.
DEVICE_KEPT_S = 60.0
# Devices that are told apart at once. Chosen: more than a server has sessions; whoever comes with a
# new name each time is counted among the others.
_MAX_DEVICES = 4096
OTHERS = "others"
# The longest name of a device that is kept. Chosen: a host name's label has at most 63 characters.
_MAX_NAME = 64


# What ends a session: the engine by its `FinishReason`, an error, or its front.
_FINISHES = ("stop", "length", "error", "closed")
# What operators are told of by alerts, from the first time on.
_REASONS = tuple(kind.__name__ for kind in (InternalError, Overloaded, Unavailable))


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
    recent: SlidingWindow  # (committed, rejections, of these covered by a fork)
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
    finish: str = "closed"  # what ended it, as far as is known
    last_s: float | None = None  # when its last verdict came
    resumed: bool = False  # it goes on with a session that has been counted already


class Telemetry:
    """Times are arguments, in seconds of the monotonic clock."""

    def __init__(self, slos: list[Slo], metrics: ServerMetrics, now: float) -> None:
        self.metrics = metrics
        self.start_s = self._forgot_s = now
        self.sessions: dict[int, SessionRecord] = {}
        self.devices: dict[str, DeviceRecord] = {}
        self.classes: dict[str, ClassRecord] = {}
        self.last_step: StepReport | None = None
        self._steps: deque[tuple[float, StepReport]] = deque()
        metrics.sessions.devices.set_function(lambda: self.num_devices(time.monotonic()))
        for source in Source:
            for drafts in (
                metrics.drafts.verified,
                metrics.drafts.accepted,
                metrics.drafts.rejected,
            ):
                drafts.labels(source)  # shown before the first: an alert hears of the first, too
        for rejection in Rejection:
            metrics.drafts.rejections.labels(rejection)
        for finish in _FINISHES:
            metrics.sessions.finished.labels(finish)
        for reason in _REASONS:
            metrics.sessions.refused.labels(reason)
            metrics.sessions.failed.labels(reason)
        for slo in slos:
            self._add_class(slo.name, slo, slo.priority, now)

    def serves(self, model: str) -> None:
        """Show what vLLM shows for each model, by its label."""
        metrics = self.metrics
        metrics.gateway.num_running.labels(model).set_function(
            lambda: len(self.sessions) - self.num_waiting
        )
        metrics.gateway.num_waiting.labels(model).set_function(lambda: self.num_waiting)
        metrics.gateway.kv_used.labels(model).set_function(lambda: self.kv_used)

    @property
    def kv_used(self) -> float:
        """Share of the KV memory that sessions held after the last step; NaN: unknown."""
        if not self.sessions:
            return 0.0
        used = self.last_step.kv_used if self.last_step else 0.0
        return math.nan if used is None else used

    @property
    def num_waiting(self) -> int:
        """Sessions without a token yet."""
        sessions = list(self.sessions.values())
        return sum(record.attainment.first_token_s is None for record in sessions)

    def refused(self, error: WispError) -> None:
        self.metrics.sessions.refused.labels(type(error).__name__).inc()

    def opened(
        self,
        session_id: int,
        slo: Slo,
        device: str | None,
        now: float,
        *,
        num_prompt: int = 0,
        resumed: bool = False,
    ) -> SessionRecord:
        if not resumed:
            self.metrics.sessions.prompt_tokens.inc(num_prompt)
        if slo.name not in self.classes:
            self._add_class(slo.name, None, slo.priority, now)
        if device is not None:
            # A name is shown in terminals, and anybody may send one.
            device = "".join(filter(str.isprintable, device))[:_MAX_NAME] or UNNAMED
            if now - self._forgot_s >= BUCKET_S:  # to look through all takes time
                self._forget_devices(now)
            if device not in self.devices and len(self.devices) >= _MAX_DEVICES:
                device = OTHERS
            self.devices.setdefault(
                device, DeviceRecord(SlidingWindow(3, now), now)
            ).num_sessions += 1
        record = SessionRecord(session_id, device, Attainment(slo, now), now, SlidingWindow(1, now))
        record.resumed = resumed
        self.sessions[session_id] = record
        return record

    def took(self, record: SessionRecord, verdict: Verdict) -> None:
        now, num_tokens = verdict.committed_s, len(verdict.tokens)
        slo = record.attainment.slo
        if record.attainment.first_token_s is None and not record.resumed:
            self.metrics.sessions.first_token_s.observe(now - record.opened_s)
        if record.last_s is not None and num_tokens:
            for _ in range(num_tokens):
                self.metrics.sessions.inter_token_s.observe((now - record.last_s) / num_tokens)
        record.last_s = now
        if verdict.finish_reason:
            record.finish = verdict.finish_reason
            if not record.resumed:
                self.metrics.sessions.session_s.observe(now - record.opened_s)
        in_time = record.attainment.add(num_tokens, now)
        record.recent.add(now, num_tokens)
        record.num_verified += verdict.edge_drafts.num_drafted
        if verdict.rejection:
            self.metrics.drafts.rejections.labels(verdict.rejection).inc()
        kind = self.classes[slo.name]
        kind.num_tokens += num_tokens
        kind.num_in_time += in_time
        kind.recent.add(now, num_tokens, in_time)
        kind.committed.inc(num_tokens)
        kind.goodput.inc(in_time)
        if record.device is not None:
            device = self.devices[record.device]
            device.seen_s = now
            covered = verdict.rejection not in (None, Rejection.UNCOVERED)
            device.recent.add(now, num_tokens, verdict.rejection is not None, covered)
            kind.window.observe(verdict.directive.window)

    def failed(self, record: SessionRecord, error: Exception) -> None:
        record.finish = "error"
        self.metrics.sessions.failed.labels(type(error).__name__).inc()
        if isinstance(error, Shed):
            name = record.attainment.slo.name
            self.classes[name].num_shed += 1
            self.metrics.classes.shed.labels(name).inc()

    def closed(self, record: SessionRecord) -> None:
        """On every way out; a second time changes nothing."""
        if record.closed:
            return
        record.closed = True
        self.metrics.sessions.finished.labels(record.finish).inc()
        del self.sessions[record.id]
        self.metrics.drafts.unverified.inc(max(0, record.num_arrived - record.num_verified))
        if record.device is not None:
            self.devices[record.device].num_sessions -= 1
        attainment = record.attainment
        if attainment.first_token_s is None or record.resumed:
            return
        name = attainment.slo.name
        kind = self.classes[name]
        kind.num_ended += 1
        kind.num_first_token_attained += attainment.first_token_attained
        kind.num_rate_attained += attainment.rate_attained
        self.metrics.classes.ended.labels(name).inc()
        self.metrics.classes.first_token_attained.labels(name).inc(attainment.first_token_attained)
        self.metrics.classes.rate_attained.labels(name).inc(attainment.rate_attained)

    def stepped(self, step: StepReport, now: float) -> None:
        self.last_step = step
        self._steps.append((now, step))
        self._forget_steps(now)
        metrics = self.metrics
        metrics.steps.total.inc()
        metrics.steps.time_s.observe(step.step_time_s)
        metrics.steps.loop_s.observe(step.loop_time_s - step.step_time_s)
        metrics.steps.sessions.observe(step.num_sessions)
        metrics.steps.tokens.observe(step.num_tokens)
        metrics.steps.committed.inc(step.num_committed)
        for source, counts in step.drafts.items():
            metrics.drafts.verified.labels(source).inc(counts.num_drafted)
            metrics.drafts.accepted.labels(source).inc(counts.num_accepted)
            metrics.drafts.rejected.labels(source).inc(counts.num_drafted - counts.num_accepted)
        if forecast := step.forecast:
            metrics.steps.error_ratio.observe(forecast.error(step.step_time_s))
            metrics.steps.over_upper.inc(step.step_time_s > forecast.upper_s)
            metrics.steps.drift.set(forecast.drift)
            metrics.steps.interference.observe(step.step_time_s / forecast.alone_s)
        metrics.kv.num_parked.set(step.kv.num_parked)
        metrics.kv.num_waiting.set(step.kv.num_waiting)
        metrics.kv.parked_tokens.inc(step.kv.num_parked_tokens)
        metrics.kv.loaded_tokens.inc(step.kv.num_loaded_tokens)
        metrics.kv.evicted_tokens.inc(step.kv.num_evicted_tokens)
        metrics.kv.late_loads.inc(step.kv.num_late_loads)
        if step.marginal_cost is not None:
            metrics.steps.marginal_cost.set(step.marginal_cost)

    def steps(self, now: float) -> list[StepReport]:
        """Those of the last `HORIZON_S` seconds."""
        self._forget_steps(now)
        return [step for _, step in self._steps]

    def num_devices(self, now: float) -> int:
        """With a session now or within the last minute."""
        self._forget_devices(now)
        return len(self.devices)

    def _add_class(self, name: str, slo: Slo | None, priority: int, now: float) -> None:
        metrics = self.metrics
        for counter in (
            metrics.classes.ended,
            metrics.classes.first_token_attained,
            metrics.classes.rate_attained,
            metrics.classes.shed,
        ):
            counter.labels(name)  # shown before the first
        self.classes[name] = ClassRecord(
            name,
            slo,
            priority,
            SlidingWindow(2, now),
            self.metrics.classes.tokens.labels(name),
            self.metrics.classes.goodput.labels(name),
            self.metrics.classes.window.labels(name),
        )

    def _forget_devices(self, now: float) -> None:
        self._forgot_s = now
        self.devices = {
            name: device
            for name, device in self.devices.items()
            if device.num_sessions or now - device.seen_s < DEVICE_KEPT_S
        }

    def _forget_steps(self, now: float) -> None:
        while self._steps and self._steps[0][0] <= now - HORIZON_S:
            self._steps.popleft()
