from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.pair import TEMPERATURES, Answer, judge, questions
from wisp.core.request import Sampling
from wisp.testing.drafter import ScriptedDrafter


def test_acceptance_and_coverage_are_counted_by_kind_and_temperature() -> None:
    """The text is the drafter's truth, of which it is right with a known chance."""
    answers = [
        Answer(kind, [3] * 4 + [5] * 900, 4, Sampling(max_tokens=900, temperature=t, seed=1))
        for t in TEMPERATURES
        for kind in ("chat", "code")
    ]
    drafter = ScriptedDrafter(lambda *_: 5, acceptance=0.6, coverage=(0.3, 0.2))
    rows = judge(drafter, answers)
    assert {(row["kind"], row["temperature"]) for row in rows} == {
        (kind, t) for kind in ("chat", "code") for t in TEMPERATURES
    }
    for row in rows:
        assert row["positions"] == 900
        assert row["acceptance"] == pytest.approx(0.6, abs=0.06)
        assert row["coverage"] == pytest.approx(0.5, abs=0.09)


def test_questions_are_of_each_kind(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("\n".join(json.dumps({"prompt": f"def f{n}():\n"}) for n in range(7)))
    found = questions(3, tasks)
    kinds = [kind for kind, _ in found]
    assert {kind: kinds.count(kind) for kind in kinds} == {"chat": 3, "code": 3, "HumanEval": 3}
    assert len(set(found)) == 9
    assert "def f0()" in found[6][1]
