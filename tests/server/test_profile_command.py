"""`wisp profile` on the bundled target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wisp.config import ProfileConfig, load
from wisp.errors import ConfigError
from wisp.estimator import store
from wisp.estimator.shape import StepShape
from wisp.estimator.store import Key
from wisp.server.profile_command import run


def profiled(*flags: str, profile_s: float = 1.0) -> int:
    flags = (f"--estimator.profile_s={profile_s}", *flags)
    return run(load(ProfileConfig, [*flags], "wisp profile"))


def test_it_prints_one_object_and_keeps_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # On a machine that is busy otherwise a second holds a step or two.
    assert profiled("--json", f"--estimator.state_dir={tmp_path}", profile_s=8.0) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["num_steps"] > 5
    assert 0.0 < summary["floor_ms"] < summary["table"][-1]["plain_ms"]
    assert [row["tokens"] for row in summary["table"]] == [2**power for power in range(9)]
    assert [str(path) for path in tmp_path.iterdir()] == [summary["saved"]]
    key = Key(model=summary["model"], gpu=summary["device"], engine=summary["engine"])
    known = store.load(tmp_path, key)
    assert known is not None
    assert 1e3 * known.predict_s(StepShape(1, 0, 0.0, 1)) == pytest.approx(summary["floor_ms"])


def test_it_tells_people_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert profiled("--estimator.state_dir=null", "--scheduling.max_step_tokens=64") == 0
    said = capsys.readouterr().out
    assert "floor" in said
    assert "95 % bound" in said
    assert "saved" not in said


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--estimator.state_dir=/dev/null", "cannot be saved in /dev/null"),
        ("--engine.max_model_len=32", "no step could be measured"),
    ],
)
def test_what_fails_gets_a_sentence(flag: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        profiled(flag)
