"""A line for each step of a running engine: who was in it, whose KV was where, what was moved.

`KvLog.attach` looks on as the engine publishes a step and moves KV behind the next one's launch.
On a GPU events around the copies say how long they took.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = dict[str, Any]


@dataclass
class KvLog:
    lines: list[Line] = field(default_factory=list)

    def attach(self, verifier: Any) -> None:
        """To the engine of this process, before its first step."""
        from wisp.engine.engine import Engine
        from wisp.engine.kv_moves import KvMoves

        publish, move = Engine._publish, KvMoves.move
        log = self

        def noted_publish(engine: Any, step: Any, outcomes: Any, step_s: float, now: float) -> None:
            log.lines.append(stepped(step, outcomes, step_s, now, engine.sessions, verifier))
            publish(engine, step, outcomes, step_s, now)

        def noted_move(moves: Any) -> None:
            asked = moves._planned
            before = moves._num_parked, moves._num_loaded, moves._num_evicted, moves._num_late
            start_s = time.perf_counter()
            move(moves)
            if log.lines and (asked.leaving or asked.entering):
                after = moves._num_parked, moves._num_loaded, moves._num_evicted, moves._num_late
                names = "parked_tokens", "loaded_tokens", "evicted_tokens", "late_loads"
                line = log.lines[-1]
                line["leaving"], line["entering"] = len(asked.leaving), len(asked.entering)
                line["stayed_out"] = sum(session.parked for session in asked.entering)
                line["stayed_in"] = sum(session.resident for session in asked.leaving)
                line["move_host_ms"] = 1e3 * (time.perf_counter() - start_s)
                line |= {n: b - a for n, a, b in zip(names, before, after, strict=True)}

        Engine._publish = noted_publish  # type: ignore[method-assign, assignment]
        KvMoves.move = noted_move  # type: ignore[method-assign, assignment]
        if hasattr(verifier, "_core"):
            self._note_copies(verifier._core)

    def _note_copies(self, core: Any) -> None:
        from wisp.verifier.vllm.host_kv import HostKv

        move, log = HostKv.move, self

        def noted(host: HostKv, out: Any, back: Any, *, after_step: bool) -> None:
            begun = _event(host._stream) if host._on_gpu else None
            move(host, out, back, after_step=after_step)
            if log.lines:
                line = log.lines[-1]
                line["blocks_out"] = line.get("blocks_out", 0) + len(out)
                line["blocks_back"] = line.get("blocks_back", 0) + len(back)
                if begun:
                    line.setdefault("_copies", []).append((begun, _event(host._stream)))

        HostKv.move = noted  # type: ignore[method-assign, assignment]

    def write(self, path: Path) -> None:
        for line in self.lines:
            if copies := line.pop("_copies", None):
                copies[-1][1].synchronize()
                line["copy_ms"] = sum(begun.elapsed_time(ended) for begun, ended in copies)
        names = dict.fromkeys(name for line in self.lines for name in line)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(names), restval=0, lineterminator="\n")
            writer.writeheader()
            writer.writerows({n: _short(v) for n, v in line.items()} for line in self.lines)


def stepped(
    step: Any, outcomes: Any, step_s: float, now: float, open_: Mapping[int, Any], verifier: Any
) -> Line:
    """Of a step whose outcomes are not committed yet. `open_`: all sessions."""
    seats = step.batch.seats
    sessions = list(open_.values())
    resident = [each for each in sessions if each.resident]
    memory = verifier.memory()
    return {
        "at_s": now,
        "wall_s": time.time(),
        "step_ms": 1e3 * step_s,
        "seats": len(seats),
        "decoding": sum(seat.num_context == 1 for seat in seats),
        "prefill": step.num_prefill,
        "drafts": sum(len(seat.draft) for seat in seats),
        "committed": sum(len(outcome.tokens) for outcome in outcomes),
        "in_vain": sum(not outcome.tokens for outcome in outcomes),
        "open": len(sessions),
        "resident": len(resident),
        "parked": sum(each.parked for each in sessions),
        "late": sum(each.promised_s < now for each in sessions),
        "late_resident": sum(each.promised_s < now for each in resident),
        "resident_tokens": sum(each.num_computed for each in resident),
        "free_blocks": memory.num_free if memory else -1,
        "parkable_blocks": memory.num_parkable if memory else -1,
    }


def _event(stream: Any) -> Any:
    import torch

    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
