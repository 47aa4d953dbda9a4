"""What the server remembers of its steps, sessions, classes and devices, and counts in metrics."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from wisp.core.drafts import Rejection, Source, Verdict
from wisp.core.slo import Attainment, Slo
from wisp.engine.messages import StepReport
from wisp.errors import InternalError, Overloaded, Shed, Unavailable, WispError
from wisp.metrics import ServerMetrics

UNNAMED = "unnamed"

# How far the figures "of late" look back. Chosen: a person who watches sees a change within it, and
# a few hundred steps make a steady mean.
HORIZON_S = 10.0
# The grain in which a sliding window forgets. Chosen: forty sums for each of a thousand sessions.
_BUCKET_S = 0.25
# How long a device is shown after its last session. Chosen: a person between two requests.
DEVICE_KEPT_S = 60.0
# Devices that are told apart at once. Chosen: more than a server has sessions; whoever comes with a
# new name each time is counted among the others.
_MAX_DEVICES = 4096
OTHERS = "others"
# The longest name of a device that is kept. Chosen: a host name's label has at most 63 characters.
_MAX_NAME = 64


# What operators are told of by alerts, from the first time on.
_REASONS = tuple(kind.__name__ for kind in (InternalError, Overloaded, Unavailable))


class SlidingWindow:
    """Sums of what happened in the last `HORIZON_S` seconds."""

    def __init__(self, num_sums: int, now: float) -> None:
        self._start_s = now
        self._zeros = (0.0,) * num_sums
        self._buckets: deque[tuple[int, list[float]]] = deque()

    def add(self, now: float, *amounts: float) -> None:
        bucket = int(now / _BUCKET_S)
        if not self._buckets or self._buckets[-1][0] < bucket:
            self._drop(now)
            self._buckets.append((bucket, list(self._zeros)))
        sums = self._buckets[-1][1]
        for index, amount in enumerate(amounts):
            sums[index] += amount

    def sums(self, now: float) -> Sequence[float]:
        self._drop(now)
        rows = [self._zeros, *(sums for _, sums in self._buckets)]
        return [sum(column) for column in zip(*rows, strict=True)]

    def per_s(self, now: float) -> Sequence[float]:
        elapsed_s = seconds_seen(self._start_s, now)
        return [total / elapsed_s for total in self.sums(now)]

    def _drop(self, now: float) -> None:
        while self._buckets and self._buckets[0][0] <= (now - HORIZON_S) / _BUCKET_S:
            self._buckets.popleft()


def seconds_seen(start_s: float, now: float) -> float:
    """How much of the last `HORIZON_S` seconds there was."""
    return min(HORIZON_S, max(_BUCKET_S, now - start_s))


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
        metrics.num_running.set_function(lambda: len(self.sessions) - self.num_waiting)
        metrics.num_waiting.set_function(lambda: self.num_waiting)
        metrics.devices.set_function(lambda: self.num_devices(time.monotonic()))
        for source in Source:
            for drafts in (metrics.verified, metrics.accepted, metrics.rejected):
                drafts.labels(source)  # shown before the first: an alert hears of the first, too
        for rejection in Rejection:
            metrics.rejections.labels(rejection)
        for reason in _REASONS:
            metrics.refused.labels(reason)
            metrics.failed.labels(reason)
        for slo in slos:
            self._add_class(slo.name, slo, slo.priority, now)

    @property
    def num_waiting(self) -> int:
        """Sessions without a token yet."""
        sessions = list(self.sessions.values())
        return sum(record.attainment.first_token_s is None for record in sessions)

    def refused(self, error: WispError) -> None:
        self.metrics.refused.labels(type(error).__name__).inc()

    def opened(
        self,
        session_id: int,
        slo: Slo,
        device: str | None,
        now: float,
        *,
        resumed: bool = False,
    ) -> SessionRecord:
        if slo.name not in self.classes:
            self._add_class(slo.name, None, slo.priority, now)
        if device is not None:
            # A name is shown in terminals, and anybody may send one.
            device = "".join(filter(str.isprintable, device))[:_MAX_NAME] or UNNAMED
            if now - self._forgot_s >= _BUCKET_S:  # to look through all takes time
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
            self.metrics.first_token_s.observe(now - record.opened_s)
        in_time = record.attainment.add(num_tokens, now)
        record.recent.add(now, num_tokens)
        record.num_verified += verdict.edge_drafts.num_drafted
        if verdict.rejection:
            self.metrics.rejections.labels(verdict.rejection).inc()
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
        self.metrics.failed.labels(type(error).__name__).inc()
        if isinstance(error, Shed):
            name = record.attainment.slo.name
            self.classes[name].num_shed += 1
            self.metrics.shed.labels(name).inc()

    def closed(self, record: SessionRecord) -> None:
        """On every way out; a second time changes nothing."""
        if record.closed:
            return
        record.closed = True
        del self.sessions[record.id]
        self.metrics.unverified.inc(max(0, record.num_arrived - record.num_verified))
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
        self.metrics.ended.labels(name).inc()
        self.metrics.first_token_attained.labels(name).inc(attainment.first_token_attained)
        self.metrics.rate_attained.labels(name).inc(attainment.rate_attained)

    def stepped(self, step: StepReport, now: float) -> None:
        self.last_step = step
        self._steps.append((now, step))
        self._forget_steps(now)
        metrics = self.metrics
        metrics.steps.inc()
        metrics.step_s.observe(step.step_time_s)
        metrics.loop_s.observe(step.loop_time_s - step.step_time_s)
        metrics.step_sessions.observe(step.num_sessions)
        metrics.step_tokens.observe(step.num_tokens)
        metrics.committed.inc(step.num_committed)
        for source, counts in step.drafts.items():
            metrics.verified.labels(source).inc(counts.num_drafted)
            metrics.accepted.labels(source).inc(counts.num_accepted)
            metrics.rejected.labels(source).inc(counts.num_drafted - counts.num_accepted)
        if forecast := step.forecast:
            metrics.step_error.observe(forecast.error(step.step_time_s))
            metrics.step_over_upper.inc(step.step_time_s > forecast.upper_s)
            metrics.estimator_drift.set(forecast.drift)
            metrics.interference.observe(step.step_time_s / forecast.alone_s)
        if step.marginal_cost is not None:
            metrics.marginal_cost.set(step.marginal_cost)

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
            metrics.ended,
            metrics.first_token_attained,
            metrics.rate_attained,
            metrics.shed,
        ):
            counter.labels(name)  # shown before the first
        self.classes[name] = ClassRecord(
            name,
            slo,
            priority,
            SlidingWindow(2, now),
            self.metrics.class_tokens.labels(name),
            self.metrics.goodput.labels(name),
            self.metrics.window.labels(name),
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
