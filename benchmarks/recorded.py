"""Recordings for the simulator: where a real pair's drafts are right, and what its drafter saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.predictor_traces import record
from benchmarks.sim.text import COLUMNS

MAX_TOKENS = 80  # of a recorded text; chosen: as in benchmarks/predictor.py
SEED = 7  # of everything drawn at random here; chosen: any number does, and one makes it repeatable


def write(path: Path, target: Path, draft: Path, temperatures: Sequence[float]) -> dict[str, Any]:
    """A column for each of `COLUMNS` over all texts, and where each text ends; half precision."""
    traces = record(target, draft, temperatures, MAX_TOKENS, window=2, seed=SEED)
    rows = [
        (right, *(getattr(found.proposal, name) for name in COLUMNS[1:]))
        for trace in traces
        for right, found in zip(trace.accepted, trace.drafts, strict=True)
    ]
    columns = np.array(rows, dtype=np.float16).T
    ends = np.cumsum([len(trace.accepted) for trace in traces])
    np.savez_compressed(
        path,
        ends=ends.astype(np.int32),
        temperatures=np.array([trace.temperature for trace in traces], dtype=np.float16),
        **dict(zip(COLUMNS, columns, strict=True)),
    )
    return {
        "texts": len(traces),
        "positions": int(ends[-1]),
        "acceptance": round(float(columns[0].astype(np.float64).mean()), 3),
        "bytes": path.stat().st_size,
    }
