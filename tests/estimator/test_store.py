from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.estimator.known import steps
from wisp.estimator.step_time import StepTimeEstimator
from wisp.estimator.store import Key, load, path_of, save

KEY = Key(model="Qwen/Qwen3-8B", gpu="NVIDIA H200", engine="vllm 0.26.0")


def learned(number: int) -> StepTimeEstimator:
    estimator = StepTimeEstimator()
    for shape, time_s in steps(number, 1):
        estimator.observe(shape, time_s)
    return estimator


@pytest.mark.parametrize("number", [0, 10, 700])
def test_what_is_saved_is_loaded(tmp_path: Path, number: int) -> None:
    estimator = learned(number)
    path = save(estimator, tmp_path / "new", KEY)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    again = load(tmp_path / "new", KEY)
    assert again is not None
    for shape, _ in steps(50, 2):
        assert again.predict_s(shape) == pytest.approx(estimator.predict_s(shape))
        assert again.upper_s(shape) == pytest.approx(estimator.upper_s(shape), rel=0.05)
    for shape, time_s in steps(200, 3):
        estimator.observe(shape, time_s)
        again.observe(shape, time_s)
    assert again.num_observed == number + 200
    assert again.drift == pytest.approx(estimator.drift, rel=0.1)
    shape, _ = steps(1, 4)[0]
    assert again.predict_s(shape) == pytest.approx(estimator.predict_s(shape), rel=0.02)


def test_another_target_starts_cold(tmp_path: Path) -> None:
    save(learned(40), tmp_path, KEY)
    other = Key(model=KEY.model, gpu=KEY.gpu, engine="vllm 0.32.0")
    assert load(tmp_path, other) is None
    alike = Key(model="Qwen-Qwen3-8B", gpu=KEY.gpu, engine=KEY.engine)
    assert path_of(tmp_path, alike) != path_of(tmp_path, KEY)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, b""),
        (None, b'{"format":4}'),
        (None, b"\xff\x00 no text"),
        (b'"format":4', b'"format":1'),
        (b"NVIDIA H200", b"NVIDIA A100"),  # renamed by hand
        (b'"weights":[', b'"weights":[1.0,'),
        (b'"weights":[', b'"weights":["a",'),
        (b'"gram":[[', b'"gram":[[1.0,'),
    ],
)
def test_a_file_of_no_use_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, old: bytes | None, new: bytes
) -> None:
    path = save(learned(40), tmp_path, KEY)
    content = path.read_bytes()
    assert old is None or old in content
    path.write_bytes(new if old is None else content.replace(old, new))
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path, KEY) is None
    assert "starts cold" in caplog.text


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(learned(40), tmp_path, KEY)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        save(learned(50), tmp_path, KEY)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
