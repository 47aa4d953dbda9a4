"""What the host does between two steps of the GPU, by part, in a running engine.

`HostParts.attach` puts clocks around the parts of one turn of the engine loop. A record begins when
the choices of a step have arrived and ends when the next forward is submitted: for so long the GPU
waits for the host, if steps are taken one by one. A part's time is without that of the parts inside
it. On a GPU events in its own stream say beside it how long the GPU idled.

Each clock costs less than a microsecond, some forty of them a step.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wisp.core.batch import Batch

# (owner, method, part): the owner is one of those that `_owners` finds.
_PARTS = (
    ("Pipe", "receive", "receive"),
    ("Pipe", "send", "send"),
    ("Engine", "_handle", "handle"),
    ("Engine", "_decide", "decide"),
    ("Engine", "_forecast", "forecast"),
    ("Engine", "_publish", "publish"),
    ("Engine", "_commit", "commit"),
    ("Engine", "rest", "rest"),
    ("StepTimeEstimator", "observe", "learn step time"),
    ("verifier", "launch", "place"),
    ("verifier", "_launch", "execute"),
    ("verifier", "_collect", "collect"),
    ("requests", "outcome", "outcome"),
    ("scheduler", "schedule", "schedule"),
    ("scheduler", "landed", "landed"),
    ("scheduler", "launched", "launched"),
    ("runner", "execute_model", "execute"),
    ("runner", "_update_states", "update states"),
    ("runner", "_prepare_inputs", "prepare inputs"),
    ("runner", "_prepare_input_ids", "prepare inputs: ids"),
    ("runner", "_calc_spec_decode_metadata", "prepare inputs: drafts"),
    ("runner", "_determine_batch_execution_and_padding", "choose graph"),
    ("runner", "_get_slot_mappings", "slot mappings"),
    ("runner", "_build_attention_metadata", "attention metadata"),
    ("runner", "_preprocess", "preprocess"),
    ("runner", "sample_tokens", "sample_tokens"),
    ("runner", "_bookkeeping_sync", "bookkeeping"),
)
_SEATS, _FEWEST = 8, 20  # so many sessions are one group, so few steps tell nothing of it
OTHER = "other"  # the engine loop itself


@dataclass
class Gap:
    """Between one step and the next, of which these are the numbers. Times in seconds."""

    num_seats: int
    num_tokens: int
    num_drafting: int  # seats with drafts
    num_prefill: int  # tokens of prompts
    step_s: float  # since the forward before was submitted
    parts: dict[str, float]
    events: tuple[Any, Any] | None = None  # the GPU's end of the step before, and its next start

    @property
    def host_s(self) -> float:
        return sum(self.parts.values())

    @property
    def idle_s(self) -> float | None:
        """Of the GPU, until the host comes to submit the forward."""
        if self.events is None:
            return None
        ended, begun = self.events
        return float(ended.elapsed_time(begun)) / 1000


@dataclass
class HostParts:
    """Records gaps once it is attached; `gaps` may be cleared at any time."""

    clock: Callable[[], float] = time.perf_counter
    gaps: list[Gap] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stack: list[str] = []
        self._times: dict[str, float] = defaultdict(float)
        self._last_s = self._forward_s = 0.0
        self.waiting = False  # the choices of a step have arrived, the next one does not run yet
        self.batch = Batch()
        self._ended: Any = None

    def attach(self, verifier: Any) -> None:
        """To the engine of this process, on vLLM or without one."""
        owners = _owners(verifier)
        for owner, method, part in _PARTS:
            if hasattr(owners.get(owner), method):
                self.clock_in(owners[owner], method, part)
        self.note_batches(verifier)
        if "runner" in owners:
            self._note_arrivals()
            self._note_forwards(owners["runner"])

    def clock_in(self, owner: Any, method: str, part: str) -> None:
        work = getattr(owner, method)

        def clocked(*args: Any, **kwargs: Any) -> Any:
            self.enter(part)
            try:
                return work(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, method, clocked)

    def enter(self, part: str) -> None:
        self._tick()
        self._stack.append(part)

    def leave(self) -> None:
        self._tick()
        self._stack.pop()

    def _tick(self) -> None:
        now = self.clock()
        self._times[self._stack[-1] if self._stack else OTHER] += now - self._last_s
        self._last_s = now

    def note_batches(self, verifier: Any) -> None:
        launch = verifier.launch

        def noted(batch: Batch) -> Any:
            self.batch = batch
            return launch(batch)

        verifier.launch = noted

    def _note_arrivals(self) -> None:
        from wisp.verifier.vllm.launched import Launched

        table = Launched.table

        def noted(step: Launched) -> Any:
            if step.arrived is not None:
                step.arrived.synchronize()
            self._times.clear()
            self._last_s, self.waiting = self.clock(), True
            return table(step)

        Launched.table = noted  # type: ignore[method-assign, assignment]

    def _note_forwards(self, runner: Any) -> None:
        forward, sample = runner._model_forward, runner._sample
        on_gpu = runner.device.type == "cuda"

        def noted_forward(*args: Any, **kwargs: Any) -> Any:
            begun = _event() if on_gpu else None
            self.enter("forward")
            found = forward(*args, **kwargs)
            self.leave()
            self.forward_submitted(begun)
            return found

        def noted_sample(*args: Any, **kwargs: Any) -> Any:
            found = sample(*args, **kwargs)
            self._ended = _event() if on_gpu else None
            return found

        runner._model_forward, runner._sample = noted_forward, noted_sample

    def forward_submitted(self, begun: Any) -> None:
        step_s, self._forward_s = self._last_s - self._forward_s, self._last_s
        if not self.waiting:
            return
        self.waiting = False
        seats = self.batch.seats
        events = (self._ended, begun) if begun is not None and self._ended is not None else None
        drafting = sum(bool(seat.draft) for seat in seats)
        prefill = sum(seat.num_context for seat in seats if not seat.session.decoding)
        tokens = self.batch.num_tokens
        times = dict(self._times)
        self.gaps.append(Gap(len(seats), tokens, drafting, prefill, step_s, times, events))


def _owners(verifier: Any) -> dict[str, Any]:
    from wisp.engine.engine import Engine
    from wisp.engine.process import Pipe
    from wisp.estimator.step_time import StepTimeEstimator

    owners: dict[str, Any] = {"Engine": Engine, "Pipe": Pipe, "verifier": verifier}
    owners["StepTimeEstimator"] = StepTimeEstimator
    if hasattr(verifier, "scheduler"):
        owners["scheduler"], owners["requests"] = verifier.scheduler, verifier.requests
        owners["runner"] = verifier._core.model_executor.driver_worker.worker.model_runner
    return owners


def _event() -> Any:
    import torch

    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def summary(gaps: list[Gap]) -> dict[str, Any]:
    """Medians in milliseconds; those of the parts are means, so that they add up to `host_ms`."""
    idle = [gap.idle_s for gap in gaps if gap.events is not None]
    names = sorted({name for gap in gaps for name in gap.parts})
    means = {name: statistics.fmean(gap.parts.get(name, 0.0) for gap in gaps) for name in names}
    ordered = sorted(means.items(), key=lambda item: -item[1])
    return {
        "gaps": len(gaps),
        "seats": round(statistics.fmean(gap.num_seats for gap in gaps), 1),
        "drafting": round(statistics.fmean(gap.num_drafting for gap in gaps), 1),
        "tokens": round(statistics.fmean(gap.num_tokens for gap in gaps), 1),
        "step_ms": _ms(statistics.median(gap.step_s for gap in gaps)),
        "idle_ms": _ms(statistics.median(idle)) if idle else None,  # type: ignore[type-var]
        "host_ms": _ms(statistics.fmean(gap.host_s for gap in gaps)),
        "host_median_ms": _ms(statistics.median(gap.host_s for gap in gaps)),
        "parts_ms": {name: _ms(time_s) for name, time_s in ordered},
    }


def by_seats(gaps: list[Gap]) -> list[dict[str, Any]]:
    """A summary for each multiple of `_SEATS` sessions, of the steps that only verify."""
    groups: dict[int, list[Gap]] = defaultdict(list)
    for gap in gaps:
        if not gap.num_prefill:
            groups[gap.num_seats // _SEATS].append(gap)
    return [summary(group) for _, group in sorted(groups.items()) if len(group) >= _FEWEST]


def _ms(time_s: Any) -> float:
    return round(1000 * float(time_s), 3)
