"""What wisp edge-bench prints; how fast this machine is decides nothing here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wisp.edge.bench import run
from wisp.edge.power import temperature


def test_it_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--drafter.max_sessions=2", "--seconds=0.2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["draft"] == "draft"
    assert set(found["step_s_by_batch"]) == {"1", "2"}
    assert found["tokens_per_s"] == pytest.approx(1 / found["step_s_by_batch"]["1"])
    assert found["prefill_tokens_per_s"] > 0
    assert found["over_time"][0]["tokens_per_s"] > 0


def test_the_hottest_zone_counts(tmp_path: Path) -> None:
    assert temperature(tmp_path) is None
    for number, said in enumerate(["41000", "55500", "no number"]):
        (tmp_path / f"thermal_zone{number}").mkdir()
        (tmp_path / f"thermal_zone{number}" / "temp").write_text(said)
    assert temperature(tmp_path) == 55.5
