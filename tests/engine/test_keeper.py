from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.estimator.known import steps
from wisp.core.batch import Batch
from wisp.engine.keeper import Keeper, keep
from wisp.estimator.shape import StepShape
from wisp.estimator.step_time import StepTimeEstimator
from wisp.estimator.store import Key, load
from wisp.testing.clock import VirtualClock
from wisp.testing.verifier import ScriptedVerifier

KEY = Key(model="scripted", gpu="none", engine="scripted")


def kept(verifier: ScriptedVerifier, folder: Path | None, profile_s: float = 60.0) -> Keeper:
    """With more time than the whole profile takes, so that it has all of its steps."""
    return keep(verifier, folder, KEY, profile_s=profile_s, max_step_tokens=128, max_window=4)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def keeper(tmp_path: Path, clock: VirtualClock) -> Keeper:
    return Keeper(StepTimeEstimator(), tmp_path, KEY, clock)


def learn(keeper: Keeper, number: int, slower: float = 1.0) -> None:
    for shape, time_s in steps(number, 1, slower=slower):
        keeper.estimator.observe(shape, time_s)


def test_a_target_is_profiled_once(tmp_path: Path) -> None:
    first = kept(ScriptedVerifier(), tmp_path)
    again = ScriptedVerifier()
    second = kept(again, tmp_path)
    assert again.num_steps == 0
    shape = StepShape(16, 1000, 0.0, 4)
    known_s = first.estimator.predict_s(shape)
    assert known_s != StepTimeEstimator().predict_s(shape)
    assert second.estimator.predict_s(shape) == pytest.approx(known_s)


def test_without_time_or_folder_it_starts_cold(tmp_path: Path) -> None:
    verifier = ScriptedVerifier()
    assert kept(verifier, tmp_path, profile_s=0.0).estimator.num_observed == 0
    assert verifier.num_steps == 0
    kept(verifier, None).save()
    assert list(tmp_path.iterdir()) == []


def test_a_profile_that_fails_is_no_reason_not_to_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(batch: Batch) -> None:
        raise RuntimeError("out of memory")

    verifier = ScriptedVerifier(on_step=fail)
    assert kept(verifier, tmp_path).estimator.num_observed == 0
    assert verifier.num_open == 0
    assert "out of memory" in caplog.text


def test_it_is_saved_now_and_then(keeper: Keeper, clock: VirtualClock, tmp_path: Path) -> None:
    learn(keeper, 64)
    keeper.rest()
    assert load(tmp_path, KEY) is None
    clock.now = 301.0
    keeper.rest()
    saved = load(tmp_path, KEY)
    assert saved is not None
    assert saved.num_observed == 64


def test_a_few_steps_are_not_worth_a_file(keeper: Keeper, tmp_path: Path) -> None:
    learn(keeper, 8)
    keeper.save()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_files_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    keeper = Keeper(StepTimeEstimator(), tmp_path / "file", KEY)
    learn(keeper, 64)
    keeper.save()
    assert "cannot be saved" in caplog.text


def test_a_change_is_told_once(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    learn(keeper, 300)
    keeper.rest()
    assert not caplog.records
    for shape, time_s in steps(60, 2, slower=2.0):
        keeper.estimator.observe(shape, time_s)
        keeper.rest()
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "steps take other times than they did"
    ]
