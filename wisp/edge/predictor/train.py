"""wisp train-predictor: fits rejection predictors offline, from the rounds that edges logged."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

import rich.progress
from rich.console import Console
from rich.progress import track

from wisp.edge.predictor import Label, LogisticPredictor, Predictor
from wisp.edge.predictor.calibration import Calibration
from wisp.edge.predictor.memory import save
from wisp.edge.predictor.rounds import ModelPair, Rounds
from wisp.errors import ConfigError

DESCRIPTION = """\
Fit the rejection predictor from rounds that edges logged (wisp-edge --log_rounds FILE).

For each pair of target and draft in the logs one file is written into the folder, in place of
what was there. An edge that is started with --state_dir on that folder begins with it and
learns on; one that is running has to be stopped first, since it keeps what it learned itself.

The figures are of the second half of a pair's labels: what the predictor said of each before it
learned from it, beside what an edge begins with when it knows nothing."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "wisp train-predictor",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("logs", metavar="FILE", nargs="+", type=Path, help="logged rounds")
    made.add_argument("--state_dir", type=Path, required=True, help="folder for the result")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def run(arguments: Sequence[str]) -> int:
    """Raises ConfigError if there is nothing to learn from, or nowhere to keep it."""
    options = parser().parse_args(arguments)
    console = Console(stderr=True)
    rounds = _read(options.logs, console)
    folder = options.state_dir
    trained = [_train(pair, labels, folder, console) for pair, labels in rounds.labels.items()]
    if options.json:
        print(json.dumps({"unreadable_lines": rounds.num_unreadable, "pairs": trained}))
        return 0
    if rounds.num_unreadable:
        console.print(f"{rounds.num_unreadable} lines could not be read and were left out")
    for found in trained:
        print(
            f"'{found['target']}' with '{found['draft']}': {found['labels']} labels, "
            f"{found['acceptance']:.0%} accepted; log loss {found['log_loss']:.3f} "
            f"(untrained {found['untrained']['log_loss']:.3f}), calibration error "
            f"{found['calibration_error']:.3f} "
            f"(untrained {found['untrained']['calibration_error']:.3f})\n  {found['file']}"
        )
    return 0


def _read(paths: Sequence[Path], console: Console) -> Rounds:
    rounds = Rounds()
    for path in paths:
        try:
            with rich.progress.open(
                path, "rb", description=f"reading {path.name}", console=console, transient=True
            ) as lines:
                rounds.read(lines)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    rounds.labels = {pair: labels for pair, labels in rounds.labels.items() if labels}
    if not rounds.labels:
        raise ConfigError(f"no labels are in {', '.join(map(str, paths))}: nothing to learn from")
    return rounds


def _train(pair: ModelPair, labels: list[Label], folder: Path, console: Console) -> dict[str, Any]:
    predictor, prior = LogisticPredictor(), LogisticPredictor()
    trained, untrained = _Judgement(), _Judgement()
    # Those of alternatives are learned from as well, but the figures are of what was proposed.
    firsts = [label for label in labels if label.features.rank == 0]
    bar = track(labels, f"fitting {pair.target}", console=console, transient=True)
    for index, label in enumerate(bar):
        if index >= len(labels) // 2 and label.features.rank == 0:
            trained.add(predictor, label)
            untrained.add(prior, label)
        predictor.learn(label)
    try:
        path = save(predictor, folder, pair.target, pair.draft)
    except OSError as error:
        raise ConfigError(f"cannot write into {folder}: {error.strerror}") from error
    return {
        "target": pair.target,
        "draft": pair.draft,
        "labels": len(firsts),
        "acceptance": sum(label.accepted for label in firsts) / len(firsts),
        **trained.figures(),
        "untrained": untrained.figures(),
        "file": str(path),
    }


class _Judgement:
    """Of what a predictor said before it was told."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._calibration = Calibration(num_recent=sys.maxsize)

    def add(self, predictor: Predictor, label: Label) -> None:
        said = predictor.acceptance(label.features)
        self._losses.append(-log(said if label.accepted else 1.0 - said))
        self._calibration.add(said, label.accepted)

    def figures(self) -> dict[str, float]:
        """`log_loss` is in nats a label."""
        return {"log_loss": fmean(self._losses), "calibration_error": self._calibration.error}
