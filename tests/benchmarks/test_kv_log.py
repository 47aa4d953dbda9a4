"""The lines of a running engine's steps, on a simulated target whose KV memory is short."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.kv_log import KvLog
from benchmarks.load.fleet import counted, steps
from benchmarks.sim import fleet
from benchmarks.sim.fleet import Setup, simulate
from wisp.engine.engine import Engine
from wisp.engine.kv_moves import KvMoves
from wisp.scheduler.tuning import Tuning


def test_a_line_for_each_step_says_whose_kv_was_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, name in ((Engine, "_publish"), (KvMoves, "move")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back behind the test
    log, make = KvLog(), fleet.make_target
    made: list[object] = []

    def noted(*args: object) -> object:
        made.append(make(*args))  # type: ignore[arg-type]
        if len(made) == 1:
            log.attach(made[0])
        return made[-1]

    monkeypatch.setattr(fleet, "make_target", noted)
    setup = replace(Setup(), kv_tokens=2000, host_kv_tokens=50_000, warm_up_s=0.0, measured_s=8.0)
    report = simulate("wisp", 24, setup, Tuning())
    lines = [line for line in log.lines if line["open"]]
    assert sum(line["committed"] for line in lines) >= report.tokens_per_s * setup.measured_s
    assert max(line["open"] for line in lines) == 24
    assert max(line["parked"] for line in lines) > 0
    assert sum(line.get("loaded_tokens", 0) for line in lines) > 0
    assert all(line["resident"] + line["parked"] <= line["open"] for line in lines)
    log.write(tmp_path / "kv.csv")
    with (tmp_path / "kv.csv").open() as file:
        assert [int(row["seats"]) for row in csv.DictReader(file)] == [
            line["seats"] for line in log.lines
        ]


def test_a_rows_steps_are_what_the_metrics_gained() -> None:
    page = """
wisp_step_seconds_bucket{le="0.1"} 9
wisp_step_seconds_count 0
wisp_step_seconds_sum 0
wisp_drafts_verified_total{source="edge"} 5
wisp_drafts_verified_total{source="ngram"} 5
"""
    later = """
wisp_step_seconds_count 4
wisp_step_seconds_sum 1.0
wisp_step_sessions_sum 40
wisp_step_tokens_sum 60
wisp_drafts_verified_total{source="edge"} 15
wisp_drafts_verified_total{source="ngram"} 7
wisp_kv_loaded_tokens_total 300
wisp_sessions_parked 7
"""
    found = steps(counted(page), counted(later), 2.0)
    assert (found["busy"], found["step_ms"]) == (0.5, 250.0)
    assert (found["drafts_per_step"], found["loaded_per_s"], found["parked"]) == (3.0, 150, 7)
