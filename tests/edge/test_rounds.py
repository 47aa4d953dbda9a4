"""Logged rounds, and what `wisp train-predictor` makes of them."""

from __future__ import annotations

import json
import logging
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import start_edge
from tests.edge.synthetic import by_repetition, labels, overconfident
from wisp.edge.predictor import Features, Label, LogisticPredictor, Memory, fit, train
from wisp.edge.predictor.rounds import LoggedPredictor, ModelPair, RoundLog, Rounds
from wisp.errors import ConfigError
from wisp.launch import Process

PAIR = ModelPair("target", "draft")


def write(path: Path, found: list[Label], target: str = "target", most: int = 10**9) -> None:
    rounds = RoundLog(path, "draft", most)
    rounds.begin(target)
    predictor = LoggedPredictor(LogisticPredictor(), rounds)
    for label in found:
        predictor.learn(label)
    rounds.close()


def read(path: Path) -> Rounds:
    rounds = Rounds()
    with path.open("rb") as lines:
        rounds.read(lines)
    return rounds


def without_token(label: Label) -> tuple[Any, ...]:
    proposal, *rest = label.features
    numbers = (proposal.confidence, proposal.entropy, proposal.margin, proposal.spread)
    return (*numbers, *rest, label.accepted)


def test_labels_come_back_without_their_tokens(tmp_path: Path) -> None:
    written = list(labels(50, 1, overconfident, temperature=0.7))
    write(tmp_path / "log", written)
    (found,) = read(tmp_path / "log").labels.values()
    assert list(map(without_token, found)) == list(map(without_token, written))
    assert b"token" not in (tmp_path / "log").read_bytes()


def test_a_log_goes_on_where_it_was_even_if_torn(tmp_path: Path) -> None:
    path = tmp_path / "log"
    written = list(labels(6, 2, overconfident))
    write(path, written[:3])
    path.write_bytes(path.read_bytes()[:-10])
    write(path, written[3:4], target="other")
    write(path, written[4:])
    rounds = read(path)
    assert rounds.num_unreadable == 1
    assert {pair.target: len(found) for pair, found in rounds.labels.items()} == {
        "target": 4,
        "other": 1,
    }


def test_a_log_is_bounded_over_all_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log"
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            write(path, list(labels(20, 3, overconfident)), most=3000)
    assert 2500 < path.stat().st_size <= 3000
    assert read(path).num_unreadable == 0
    assert "is full" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"kind": "other"}',
        '{"kind": "label", "confidence": 0.5}',
        json.dumps({"kind": "label", "confidence": 1.5, "entropy": 1, "margin": 0, "spread": 1}),
    ],
)
def test_what_cannot_be_read_is_counted(tmp_path: Path, line: str) -> None:
    write(tmp_path / "log", list(labels(3, 4, overconfident)))
    with (tmp_path / "log").open("a") as file:
        file.write(line + "\n")
    rounds = read(tmp_path / "log")
    assert (rounds.num_unreadable, len(rounds.labels[PAIR])) == (1, 3)


def test_labels_of_no_pair_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "log", list(labels(3, 5, overconfident)))
    _, _, rest = (tmp_path / "log").read_bytes().partition(b"\n")
    (tmp_path / "log").write_bytes(rest)
    assert (read(tmp_path / "log").num_unreadable, read(tmp_path / "log").labels) == (3, {})


def test_training_equals_learning_online(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = list(labels(800, 6, by_repetition))
    write(tmp_path / "one", written[:500])
    write(tmp_path / "two", written[500:])
    folder = tmp_path / "state"
    logs = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert train.run([*logs, f"--state_dir={folder}", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["pairs"]
    assert (found["target"], found["draft"], found["labels"]) == ("target", "draft", 800)
    assert found["log_loss"] < found["untrained"]["log_loss"] - 0.1
    assert found["calibration_error"] < found["untrained"]["calibration_error"]
    trained = LogisticPredictor()
    Memory(folder, "draft", trained).recall("target")
    online = fit(written)
    for features in features_of(20):
        assert trained.acceptance(features) == online.acceptance(features)


def features_of(count: int) -> list[Features]:
    return [label.features for label in labels(count, 7, overconfident)]


def test_pairs_are_trained_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endless = labels(10_000, 8, overconfident)
    for target in ("a", "b"):
        write(tmp_path / "log", list(islice(endless, 30)), target)
    assert train.run([str(tmp_path / "log"), f"--state_dir={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "'a' with 'draft': 30 labels" in printed
    assert "'b' with 'draft': 30 labels" in printed
    assert len(list(tmp_path.glob("predictor-*.json"))) == 2


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "log", [])
    with pytest.raises(ConfigError, match="no labels"):
        train.run([str(tmp_path / "log"), f"--state_dir={tmp_path}"])
    with pytest.raises(ConfigError, match="No such file"):
        train.run([str(tmp_path / "none"), f"--state_dir={tmp_path}"])
    write(tmp_path / "log", list(labels(3, 9, overconfident)))
    with pytest.raises(ConfigError, match="cannot write into"):
        train.run([str(tmp_path / "log"), f"--state_dir={tmp_path / 'log'}"])


def test_an_edge_begins_with_what_was_trained_from_another_ones_rounds(
    patient_server: Process, logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = patient_server
    path, folder = tmp_path / "rounds", tmp_path / "state"
    with start_edge(server, logs, f"--log_rounds={path}") as edge:
        ask(edge)
    assert train.run([str(path), f"--state_dir={folder}", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["pairs"]
    assert found["labels"] > 10
    with start_edge(server, logs, f"--state_dir={folder}") as edge:
        assert httpx.get(f"{edge.url}/health").status_code == 200  # it knows its target
        assert predictor_stats(edge)["labels"] == found["labels"]
        assert ask(edge) == ask(server)
        assert predictor_stats(edge)["labels"] > found["labels"]


def ask(process: Process) -> str:
    body = {"prompt": "def test_", "model": "target", "max_tokens": 48, "seed": 1}
    answer = httpx.post(f"{process.url}/v1/completions", json=body, timeout=None)
    return str(answer.json()["choices"][0]["text"])


def predictor_stats(edge: Process) -> dict[str, Any]:
    stats: dict[str, Any] = httpx.get(f"{edge.url}/v1/stats").json()["predictor"]
    return stats
