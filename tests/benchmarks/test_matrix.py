from __future__ import annotations

import json
import sys

import pytest

from benchmarks import simulate
from benchmarks.matrix import cells, lines
from benchmarks.sim.regimes import REGIMES


def test_a_quick_matrix_has_rows_of_every_kind() -> None:
    todo = cells(quick=True)
    assert len({cell.row for cell in todo}) >= 12
    assert {cell.regime for cell in todo} == set(REGIMES)
    assert len({cell.acceptance for cell in todo}) == 3
    assert {cell.name for cell in todo} == {
        "wisp",
        "wisp-paper",
        "sled",
        "centralized",
        "co-located drafter",
    }


def test_it_has_as_many_seeds_as_are_asked_for() -> None:
    once = cells(quick=True)
    assert len(cells(quick=True, seeds=[4, 5])) == 2 * len(once)
    assert {cell.seed for cell in cells(quick=False)} == {1, 2, 3}


def test_it_prints_one_object_with_all_policies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--matrix --quick --json --jobs 1 --policies wisp centralized --regimes 8b"
    monkeypatch.setattr(sys, "argv", ["simulate", *options.split()])
    monkeypatch.setitem(REGIMES, "8b", REGIMES["8b"]._replace(measured_s=2.0, loads=(2,)))
    simulate.main()
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["regime"].startswith("8b")
    assert set(row["policies"]) == {"wisp", "centralized"}
    for found in (*row["policies"].values(), *row["peers"].values()):
        assert 0.0 < found["goodput"] <= found["tokens_per_s"]
        assert 0.0 <= found["attainment"] <= 1.0
    found = row["policies"]["wisp"]["goodput"] / row["bound"]
    assert row["share_of_bound"] == pytest.approx(found, abs=2e-3)
    assert "8b" in list(lines([row]))[-1]
