from __future__ import annotations

import json
from dataclasses import replace

import pytest

from wisp import demo
from wisp.demo import Comparison, Question, Reply
from wisp.errors import ConfigError

KEYS = {
    "lossless",
    "requests",
    "tokens",
    "acceptance",
    "tokens_per_step",
    "wasted_draft_share",
    "speedup",
}


def test_the_demo_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    code = demo.run(["--json", "--requests=2", "--max_tokens=16"])
    summary = json.loads(capsys.readouterr().out)
    assert code == 0
    assert summary.keys() >= KEYS
    assert summary["lossless"] is True
    assert summary["requests"] == 2
    assert summary["tokens"] > 0


def test_a_text_that_differs_is_not_lossless() -> None:
    usage = {
        "completion_tokens": 4,
        "wisp": {
            "accepted_tokens": 2,
            "drafted_tokens": 4,
            "steps": 2,
            "edge_drafted_tokens": 5,
            "edge_wasted_tokens": 3,
        },
    }
    answer = Reply("text", usage, time_s=0.5)
    pair = Comparison(Question("text", "prompt", 0.0, 1), 0, answer, replace(answer, time_s=1.0))
    # The summary alone: the demo itself starts three processes.
    summary = demo._summarise([pair])
    assert summary["lossless"]
    assert (summary["speedup"], summary["acceptance"]) == (2.0, 0.5)
    assert (summary["tokens"], summary["tokens_per_step"]) == (4, 2.0)
    other = replace(pair, alone=replace(answer, text="other"))
    assert not demo._summarise([pair, other])["lossless"]  # see above


def test_a_missing_directory_gets_a_sentence() -> None:
    with pytest.raises(ConfigError, match="there is no directory '/nowhere'"):
        demo.run(["--target=/nowhere"])
