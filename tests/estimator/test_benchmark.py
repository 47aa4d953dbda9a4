"""The figures of `benchmarks.estimator` on the project's own measurement."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import estimator as benchmark


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, dict[str, float]]]:
    rows = benchmark.read(benchmark.DATA)
    return {kind: benchmark.cross_validate(kind, rows) for kind in ("wisp", "paper")}


@pytest.mark.parametrize("part", ["held_out", "between", "outside", "random"])
def test_steps_not_seen_are_predicted(
    figures: dict[str, dict[str, dict[str, float]]], part: str
) -> None:
    wisp, paper = figures["wisp"][part], figures["paper"][part]
    assert wisp["mape"] < 3.0  # two runs of one shape differ by about 2
    assert wisp["r2"] > 0.99
    assert wisp["p95_under"] <= 0.05
    assert 2.0 * wisp["mape"] < paper["mape"]


def test_it_prints_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(benchmark.DATA)
    monkeypatch.setattr(sys, "argv", ["estimator", "--train", data, "--test", data, "--json"])
    benchmark.main()
    result = json.loads(capsys.readouterr().out)
    assert result["setting"]["num_rows"] == 238
    assert result.keys() == {"setting", "wisp", "paper"}
    for kind in ("wisp", "paper"):
        assert result[kind].keys() >= {"r2", "mae_ms", "mape", "p95_under"}
    assert result["wisp"]["mape"] < 3.0


def test_only_steps_that_verify_are_read() -> None:
    rows = benchmark.read(benchmark.DATA.parent.parent / "results" / "h200_vllm_steps_8b.csv")
    assert len(rows) == 16


def test_the_noise_of_rows_that_follow_a_model_is_none() -> None:
    rows = [
        benchmark.Row(batch, context, str(k), batch * (k + 1), time_s, time_s, time_s)
        for batch in (1, 8)
        for context in (128, 512, 2048)
        for k in (0, 4)
        for time_s in [0.006 + 1e-4 * batch * (k + 1) + 3e-8 * batch * context]
    ]
    assert benchmark.noise_mape(rows) == pytest.approx(0.0, abs=0.01)
    rows[0] = rows[0]._replace(median_s=2 * rows[0].median_s)
    assert benchmark.noise_mape(rows) > 1.0
