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
    assert wisp["p95_under"] <= 5.0
    assert 2.0 * wisp["mape"] < paper["mape"]


def test_it_prints_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(benchmark.DATA)
    monkeypatch.setattr(sys, "argv", ["estimator", "--train", data, "--test", data, "--json"])
    benchmark.main()
    result = json.loads(capsys.readouterr().out)
    assert result["setting"]["num_rows"] == 238
    assert set(result["figures"]) == {"wisp", "wisp_coarse", "paper"}
    assert result["figures"]["wisp"]["test"]["mape"] < 3.0
