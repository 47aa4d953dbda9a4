"""How well step times are predicted that the estimator has not seen: WISP's and the paper's.

    python -m benchmarks.estimator [--train A.csv] [--test B.csv] [--json]

A row of the CSV is one shape of step: model, batch, context, k, new_tokens and the p10, median and
p90 of its time in ms; where there is a column `engine`, only the rows of `wisp` are verification
steps. An estimator is fitted to five steps of each row, placed at the deciles 1, 3,
5, 7 and 9 of a normal distribution with a width of its own on either side. Without --test, parts of
the rows are left out in turn: every batch size, then every context (`held_out`; of it `outside` are
the smallest and the largest, `between` the others), and, as the paper's test set was drawn, a
random seventh of the (batch, context) pairs (`random`, seeded).

Errors are against medians, `mape` in percent. `p95_under` is the share of steps longer than the
95 % upper bound, from the same distribution; `rows_p90_over` the share of rows whose p90 is.
The paper's linear model knows no number of sessions, and gets the product new * length of all
seats, as the paper has it. `noise_mape` is what remains of the rows that are fitted when every
batch and draft length has a floor of its own and every batch a slope over context: what another
run of the same step differs by, and no model can tell.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks.linear import LinearEstimator
from wisp.estimator.fit import Observation
from wisp.estimator.shape import StepShape
from wisp.estimator.step_time import StepTimeEstimator

SEED = 5  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
DATA = Path(__file__).parent / "data" / "h200_qwen3_8b_shape.csv"
_NORMAL = NormalDist()
_STEPS = [_NORMAL.inv_cdf(decile) / _NORMAL.inv_cdf(0.9) for decile in (0.1, 0.3, 0.5, 0.7, 0.9)]
_NUM_PARTS = 7  # of the random split


class Row(NamedTuple):
    batch: int
    context: int  # of each session
    drafts: str  # of each session; "mixed" if they differ
    num_tokens: int
    median_s: float
    low_s: float  # p10
    high_s: float  # p90

    @property
    def length(self) -> int:
        """What is read: the sum of the sessions' lengths, their new tokens included."""
        return self.batch * self.context + self.num_tokens

    @property
    def product(self) -> float:
        """Sum over seats of new * length; the rows' seats are about alike."""
        return self.num_tokens * self.length / self.batch

    def step_s(self, z: float) -> float:
        """z = 1 is p90, -1 is p10."""
        side_s = self.high_s - self.median_s if z > 0 else self.median_s - self.low_s
        return self.median_s + z * side_s

    def above(self, time_s: float) -> float:
        """The share of such steps that take longer."""
        over = time_s - self.median_s
        side_s = self.high_s - self.median_s if over > 0 else self.median_s - self.low_s
        return 1.0 - _NORMAL.cdf(over / max(1e-9, side_s) * _NORMAL.inv_cdf(0.9))


class Fitted(Protocol):
    def fit(self, observations: Sequence[Observation]) -> None: ...
    def predict_s(self, shape: StepShape) -> float: ...
    def upper_s(self, shape: StepShape) -> float: ...


KINDS: dict[str, tuple[Callable[[], Fitted], Callable[[Row], StepShape]]] = {
    "wisp": (
        StepTimeEstimator,
        lambda row: StepShape(row.num_tokens, row.length, 0.0, row.batch),
    ),
    "paper": (
        LinearEstimator,
        lambda row: StepShape(row.num_tokens, row.length, row.product, row.batch),
    ),
}


class Guess(NamedTuple):
    row: Row
    predicted_s: float
    upper_s: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, default=DATA)
    parser.add_argument("--test", type=Path, help="default: parts of --train, left out in turn")
    parser.add_argument("--model", help="only rows of this model; needed where there are several")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    train = read(options.train, options.model)
    facts: dict[str, Any] = {"train": options.train.name, "num_rows": len(train), "seed": SEED}
    facts["noise_mape"] = noise_mape(train)
    if options.test:
        test = read(options.test, options.model)
        facts |= {"test": options.test.name, "num_test_rows": len(test)}
        figures = {kind: {"test": score(guess(kind, train, test))} for kind in KINDS}
    else:
        figures = {kind: cross_validate(kind, train) for kind in KINDS}
    if options.json:
        print(json.dumps({"setting": facts} | {k: _flat(parts) for k, parts in figures.items()}))
        return
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for kind, parts in figures.items():
        for part, values in parts.items():
            described = ", ".join(f"{name} {value}" for name, value in values.items())
            print(f"{kind:12} {part:9} {described}")


def _flat(parts: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The first part's figures on top, the others below their names."""
    first, *others = parts
    return parts[first] | {part: parts[part] for part in others}


def read(path: Path, model: str | None = None) -> list[Row]:
    with path.open(newline="") as file:
        records = list(csv.DictReader(file))
    models = {record["model"] for record in records}
    if model is None and len(models) > 1:
        raise SystemExit(f"{path} has rows of {', '.join(sorted(models))}: choose with --model")
    return [
        _row(record)
        for record in records
        if model in (None, record["model"]) and record.get("engine", "wisp") == "wisp"
    ]


def _row(record: dict[str, str]) -> Row:
    counts = [int(record[name]) for name in ("batch", "context", "new_tokens")]
    times_s = [float(record[name]) / 1e3 for name in ("median_ms", "p10_ms", "p90_ms")]
    return Row(counts[0], counts[1], record["k"], counts[2], *times_s)


def cross_validate(kind: str, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    between: list[Guess] = []
    outside: list[Guess] = []
    for name in ("batch", "context"):
        values = sorted({getattr(row, name) for row in rows})
        for value in values:
            guesses = _leave_out(kind, rows, lambda row, n=name, v=value: getattr(row, n) == v)
            (outside if value in (values[0], values[-1]) else between).extend(guesses)
    parts = {"held_out": between + outside, "between": between, "outside": outside}
    parts["random"] = _random_parts(kind, rows)
    return {part: score(guesses) for part, guesses in parts.items()}


def _random_parts(kind: str, rows: Sequence[Row]) -> list[Guess]:
    pairs = sorted({(row.batch, row.context) for row in rows})
    order = np.random.default_rng(SEED).permutation(len(pairs)) % _NUM_PARTS
    part_of = dict(zip(pairs, order.tolist(), strict=True))
    guesses = []
    for part in range(_NUM_PARTS):
        guesses += _leave_out(
            kind, rows, lambda row, part=part: part_of[row.batch, row.context] == part
        )
    return guesses


def _leave_out(kind: str, rows: Iterable[Row], is_out: Any) -> list[Guess]:
    kept: list[Row] = []
    left_out: list[Row] = []
    for row in rows:
        (left_out if is_out(row) else kept).append(row)
    return guess(kind, kept, left_out)


def noise_mape(rows: Sequence[Row]) -> float:
    floors = sorted({(row.batch, row.drafts) for row in rows})
    slopes = sorted({row.batch for row in rows})
    table = np.zeros((len(rows), len(floors) + len(slopes)))
    for index, row in enumerate(rows):
        table[index, floors.index((row.batch, row.drafts))] = 1.0 / row.median_s
        table[index, len(floors) + slopes.index(row.batch)] = row.context / row.median_s
    best = np.linalg.lstsq(table, np.ones(len(rows)), rcond=None)[0]
    return round(100.0 * float(np.abs(table @ best - 1.0).mean()), 2)


def guess(kind: str, train: Sequence[Row], test: Sequence[Row]) -> list[Guess]:
    make, shape_of = KINDS[kind]
    estimator = make()
    estimator.fit([(shape_of(row), row.step_s(z)) for row in train for z in _STEPS])
    return [
        Guess(row, estimator.predict_s(shape_of(row)), estimator.upper_s(shape_of(row)))
        for row in test
    ]


def score(guesses: Sequence[Guess]) -> dict[str, float]:
    times = np.array([each.row.median_s for each in guesses])
    errors = np.array([each.predicted_s for each in guesses]) - times
    under = np.mean([each.row.above(each.upper_s) for each in guesses])
    over = np.mean([each.row.high_s > each.upper_s for each in guesses])
    return {
        "r2": round(1.0 - float(errors @ errors / np.square(times - times.mean()).sum()), 4),
        "mae_ms": round(1e3 * float(np.abs(errors).mean()), 3),
        "mape": round(100.0 * float(np.abs(errors / times).mean()), 2),
        "p95_under": round(float(under), 4),
        "rows_p90_over": round(float(over), 4),
        "margin": round(
            float(np.mean([each.upper_s / each.predicted_s - 1.0 for each in guesses])), 4
        ),
    }


if __name__ == "__main__":
    main()
