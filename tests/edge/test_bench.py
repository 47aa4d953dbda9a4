"""What wisp edge-bench prints; how fast this machine is decides nothing here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wisp.edge.bench import run
from wisp.edge.power import temperature
from wisp.errors import ConfigError


def test_it_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--drafter.max_sessions=2", "--seconds=0.2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["draft"] == "draft"
    assert set(found["step_s_by_batch"]) == {"1", "2"}
    assert found["tokens_per_s"] == pytest.approx(1 / found["step_s_by_batch"]["1"])
    assert found["prefill_tokens_per_s"] > 0
    assert found["over_time"][0]["tokens_per_s"] > 0


def test_users_are_drafted_for_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--drafter.max_sessions=8", "--users=1,8", "--temperatures=0,0.8"]) == 0
    found = json.loads(capsys.readouterr().out)["users"]
    pairs = [(each["temperature"], each["users"]) for each in found]
    assert pairs == [(0.0, 1), (0.0, 8), (0.8, 1), (0.8, 8)]
    for each in found:
        assert each["tokens_per_s_each"] == pytest.approx(1 / each["step_s"])
        assert each["tokens_per_s"] == pytest.approx(each["users"] / each["step_s"])
        assert each["prompts_s"] > 0


def test_more_users_than_there_may_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"32 users are more than drafter\.max_sessions, 8"):
        run(["--users=1,32"])


def test_the_hottest_zone_counts(tmp_path: Path) -> None:
    assert temperature(tmp_path) is None
    for number, said in enumerate(["41000", "55500", "no number"]):
        (tmp_path / f"thermal_zone{number}").mkdir()
        (tmp_path / f"thermal_zone{number}" / "temp").write_text(said)
    assert temperature(tmp_path) == 55.5
