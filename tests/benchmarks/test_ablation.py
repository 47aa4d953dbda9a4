from __future__ import annotations

import pytest

from benchmarks.ablation import BASE, REGIMES, Run, runs, tables
from benchmarks.rules import RULES, SENSITIVITY, switched_off


@pytest.mark.parametrize("rule", [*RULES, *SENSITIVITY])
def test_each_rule_can_be_switched_off_and_is_on_again(rule: str) -> None:
    overrides = {**RULES, **SENSITIVITY}[rule]
    before = [getattr(owner, name) for owner, name, _ in overrides]
    with switched_off(rule):
        off = [getattr(owner, name) for owner, name, _ in overrides]
        assert off == [instead for _, _, instead in overrides]
        assert off != before
    assert [getattr(owner, name) for owner, name, _ in overrides] == before


def test_every_rule_is_tried_at_every_load() -> None:
    todo = runs(1, ["paper"], None, [])
    assert {run.rule for run in todo} == {BASE, *RULES}
    assert {run.devices for run in todo} == set(REGIMES["paper"].loads)


def test_a_rule_that_changed_no_decision_is_not_tried_with_other_seeds() -> None:
    idle, other = list(RULES)[:2]
    done = [
        Run("paper", 60, 1, BASE, 100.0, 1.0, 100.0, 50),
        Run("paper", 60, 1, idle, 100.0, 1.0, 100.0, 50),
        Run("paper", 60, 1, other, 100.0, 1.0, 100.0, 51),
    ]
    todo = {(run.devices, run.rule) for run in runs(2, ["paper"], None, done)}
    assert (60, idle) not in todo
    assert {(60, BASE), (60, other), (90, idle)} <= todo


def test_a_table_tells_noise_from_changes_and_those_from_none() -> None:
    done = []
    for seed in (1, 2):
        done += [Run("paper", 9, seed, BASE, 100.0, 1.0, 100.0, 50)]
        done += [Run("paper", 9, seed, "a", 100.0, 1.0, 100.0, 50)]
        done += [Run("paper", 9, seed, "b", 100.0 + seed, 1.0, 101.0, 50)]
        done += [Run("paper", 9, seed, "c", 50.0 + seed, 0.5, 50.0, 50)]
    lines = list(tables(done))
    assert "| a | = |" in lines
    assert "| b | +1.5 ±0.7 |" not in lines  # twice the noise of 0.7 is less than 1.5
    assert "| b | **+1.5 ±0.7** |" in lines
    assert "| c | **-48.5 ±0.7** |" in lines
    assert "| c | -50.0 ±0.0 |" in lines
