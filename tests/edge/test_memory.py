"""What an edge keeps of a pair between its runs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.edge.synthetic import labels, overconfident
from wisp.edge.predictor import LogisticPredictor, Memory
from wisp.edge.predictor.memory import path_of

HELD_OUT = [label.features for label in labels(50, 9, overconfident)]


def learned(num_labels: int = 300) -> LogisticPredictor:
    predictor = LogisticPredictor()
    for label in labels(num_labels, 10, overconfident):
        predictor.learn(label)
    return predictor


def said(predictor: LogisticPredictor) -> list[float]:
    return [predictor.acceptance(features) for features in HELD_OUT]


def keep(folder: Path, num_labels: int = 300) -> Path:
    """The file of the pair (target, draft)."""
    predictor = LogisticPredictor()
    memory = Memory(folder, "draft", predictor)
    memory.recall("target")
    for label in labels(num_labels, 10, overconfident):
        predictor.learn(label)
    memory.save()
    return path_of(folder, "target", "draft")


def recalled(folder: Path, target: str = "target", draft: str = "draft") -> LogisticPredictor:
    predictor = LogisticPredictor()
    Memory(folder, draft, predictor).recall(target)
    return predictor


def test_what_was_learned_comes_back_and_goes_on(tmp_path: Path) -> None:
    keep(tmp_path / "new" / "folder")
    before, after = learned(), recalled(tmp_path / "new" / "folder")
    assert said(after) == said(before)
    assert after.num_labels == 300
    for label in labels(100, 11, overconfident):
        before.learn(label)
        after.learn(label)
    assert said(after) == said(before)


def test_each_pair_has_its_own(tmp_path: Path) -> None:
    keep(tmp_path)
    fresh = said(LogisticPredictor())
    assert said(recalled(tmp_path, target="other")) == fresh
    assert said(recalled(tmp_path, draft="other")) == fresh
    assert path_of(tmp_path, "a/b", "c") != path_of(tmp_path, "a", "b/c")
    assert path_of(tmp_path, "../a b", "c").parent == tmp_path


def test_nothing_is_written_before_the_target_is_known_or_without_news(tmp_path: Path) -> None:
    Memory(tmp_path, "draft", learned()).save()
    assert list(tmp_path.iterdir()) == []
    written_ns = keep(tmp_path).stat().st_mtime_ns
    memory = Memory(tmp_path, "draft", LogisticPredictor())
    memory.recall("target")
    memory.save()
    assert path_of(tmp_path, "target", "draft").stat().st_mtime_ns == written_ns


def truncated(content: dict[str, Any]) -> str:
    return json.dumps(content)[:-40]


def of_another_format(content: dict[str, Any]) -> str:
    return json.dumps(content | {"format": 999})


def with_fewer_features(content: dict[str, Any]) -> str:
    content["predictor"]["greedy"]["weights"].pop()
    return json.dumps(content)


def not_finite(content: dict[str, Any]) -> str:
    content["predictor"]["sampled"]["weights"][0] = float("nan")
    return json.dumps(content)


def no_covariance(content: dict[str, Any]) -> str:
    content["predictor"]["sampled"]["covariance"][0][0] = -1.0
    return json.dumps(content)


def another_shape(content: dict[str, Any]) -> str:
    return json.dumps([content])


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        of_another_format,
        with_fewer_features,
        not_finite,
        no_covariance,
        another_shape,
    ],
)
def test_a_file_of_no_use_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[dict[str, Any]], str]
) -> None:
    path = keep(tmp_path)
    path.write_text(damage(json.loads(path.read_text())))
    with caplog.at_level(logging.WARNING):
        predictor = recalled(tmp_path)
    assert said(predictor) == said(LogisticPredictor())
    assert str(path) in caplog.text


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = keep(tmp_path)
    old = path.read_text()

    def full(*paths: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    keep(tmp_path, 7)
    assert "no space left" in caplog.text
    assert path.read_text() == old
    assert list(tmp_path.iterdir()) == [path]
