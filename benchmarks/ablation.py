"""What each rule of the policy `wisp` is worth: switched off alone, in the simulator.

    python -m benchmarks.ablation [--quick] [--json] [--out FILE.csv] [--jobs N]
    python -m benchmarks.ablation --rules pace aim --regimes paper --seeds 1 2 3 4 5
    python -m benchmarks.ablation --sensitivity
    python -m benchmarks.ablation --read FILE.csv

A rule is overridden from outside (benchmarks/rules.py), and a fleet is simulated with and without
it: regimes of the matrix, loads below, at and above the capacity, promises of 2 to 60 tokens/s,
several seeds. `--sensitivity` halves and doubles the constants instead.

A cell of the tables is the mean change over the seeds and its standard deviation. The noise of a
column is the median of those deviations; a change is in bold if it is more than twice the noise and
more than its own deviation. "=" says that no decision changed with the first seed; the rule was
then not tried with others.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from benchmarks.capacity import TUNINGS, report_of
from benchmarks.rules import RULES, SENSITIVITY, switched_off
from benchmarks.sim.fleet import Setup
from benchmarks.sim.regimes import REGIMES as MATRIX
from benchmarks.sim.step_times import A100, QWEN3_32B, implied_by_paper
from benchmarks.sim.workload import steady
from wisp.estimator.base import Estimator
from wisp.testing.floor_and_slope import FloorAndSlope

BASE = "all rules"
SEEDS = (1, 2)
CLEAR = 2.0  # times the noise of its column: a smaller change may be chance


class Load(NamedTuple):
    """Of a regime of the matrix (benchmarks/sim/regimes.py): its time, and perhaps its promise."""

    regime: str
    loads: tuple[int, ...]
    measured_s: float = 16.0
    rate: float | None = None  # tokens/s promised
    acceptance: float = 0.7
    misled: bool = False  # tokens cost 4 ms each, and are taken to cost nothing

    def setup(self, seed: int) -> Setup:
        regime = MATRIX[self.regime]
        regime = regime._replace(rate=self.rate) if self.rate else regime
        setup = regime.setup(self.acceptance, seed, self.measured_s)
        return replace(setup, step_times=_DEAR_TOKENS) if self.misled else setup

    @property
    def estimator(self) -> Estimator | None:
        wrong = FloorAndSlope(floor_s=0.05, token_s=1e-6, context_s=0.0)
        return wrong if self.misled else None


_DEAR_TOKENS = implied_by_paper(A100, QWEN3_32B)._replace(token_s=4e-3, seat_s=1e-4)


# Below the capacity, at it and above it; promises of 2 to 60 tokens/s.
REGIMES = {
    "paper": Load("paper", (20, 60, 90)),
    "paper at 2": Load("paper", (120,), rate=2.0),
    "prompts 512": Load("paper, prompts 512", (20, 40)),
    "half": Load("half", (14, 28)),
    "a100": Load("a100", (40, 120, 150)),
    "h200": Load("h200", (24, 72), 8.0),
    "lan laptop": Load("lan laptop", (8, 24), 8.0),
    "70b": Load("70b", (24,)),
    "long prompts": Load("long prompts", (12,)),
    "fleet": Load("fleet", (48, 96)),
    "turns": Load("turns", (32,)),
    # What insures against edges that draft badly, and against a wrong estimate.
    "poor drafts": Load("paper", (40,), acceptance=0.2),
    "misled": Load("half", (8,), 40.0, misled=True),
}


class Run(NamedTuple):
    regime: str
    devices: int
    seed: int
    rule: str  # that is off
    goodput: float = 0.0
    attained: float = 0.0
    tokens_per_s: float = 0.0
    num_steps: int = 0
    wasted_ms: float = 0.0  # of drafting, for each token


def measured(run: Run) -> Run:
    load = REGIMES[run.regime]
    setup = load.setup(run.seed)
    with switched_off(None if run.rule == BASE else run.rule):
        # They arrive over the whole warm-up: a crowd at its start would be late for long.
        fleet = steady(run.devices, 2.0 * setup.warm_up_s, run.seed)
        report = report_of("wisp", fleet, setup, TUNINGS["wisp"][0], load.estimator)
    return run._replace(
        goodput=round(report.goodput, 4),
        attained=round(report.attainment, 4),
        tokens_per_s=round(report.tokens_per_s, 4),
        num_steps=report.num_steps,
        wasted_ms=round(1e3 * sum(report.waste_per_token), 4),
    )


def runs(
    seed: int,
    regimes: Sequence[str],
    rules: Sequence[str] | None,
    done: Sequence[Run],
    *,
    sensitivity: bool = False,
) -> list[Run]:
    """With a seed; a rule that changed nothing with those before is not tried again."""
    base = {run[:3]: run for run in done if run.rule == BASE}
    idle = {(*run[:2], run.rule) for run in done} - {
        (*run[:2], run.rule) for run in done if run[4:] != base[run[:3]][4:]
    }
    found = [
        Run(name, devices, seed, rule)
        for name in regimes
        for devices in REGIMES[name].loads
        for rule in (BASE, *(SENSITIVITY if sensitivity else RULES))
        if rules is None or rule == BASE or any(map(rule.startswith, rules))
    ]
    return [run for run in found if run.rule == BASE or (*run[:2], run.rule) not in idle]


def tables(done: Sequence[Run]) -> Iterator[str]:
    """In Markdown: the change of goodput in per cent, and of promises attained in points."""
    cells = list(dict.fromkeys((run.regime, run.devices) for run in done))
    base = {run[:3]: run for run in done if run.rule == BASE}
    tried = {(run.regime, run.devices, run.rule) for run in done}
    yield "| devices | " + " | ".join(f"{regime} {devices}" for regime, devices in cells) + " |"
    yield "| --- |" + " --- |" * len(cells)
    for name, unit in ("goodput", 1.0), ("attained", 100.0):
        means = (
            fmean(unit * getattr(run, name) for key, run in base.items() if key[:2] == cell)
            for cell in cells
        )
        yield f"| {name} | " + " | ".join(f"{mean:.0f}" for mean in means) + " |"
    for name in "goodput", "attained":
        columns = [_column(done, base, cell, name) for cell in cells]
        noises = [median([spread for _, spread in column.values()] or [0]) for column in columns]
        yield f"\n| {name}, rule off | " + " | ".join(f"{r} {d}" for r, d in cells) + " |"
        yield "| --- |" + " --- |" * len(cells)
        for rule in dict.fromkeys(run.rule for run in done if run.rule != BASE):
            told = (
                _told(column.get(rule), noise) if (*cell, rule) in tried else ""
                for cell, column, noise in zip(cells, columns, noises, strict=True)
            )
            yield f"| {rule} | " + " | ".join(told) + " |"
        yield "| *noise* | " + " | ".join(f"{noise:.1f}" for noise in noises) + " |"


def _column(
    done: Sequence[Run], base: dict[Any, Run], cell: tuple[str, int], name: str
) -> dict[str, tuple[float, float]]:
    """By rule: mean change and its deviation, where decisions changed."""
    changes: dict[str, list[float]] = {}
    changed = set()
    for run in done:
        if run[:2] != cell or run.rule == BASE:
            continue
        before = base[run[:3]]
        if run[4:] != before[4:]:
            changed.add(run.rule)
        scale = 100.0 / before.goodput if name == "goodput" else 100.0
        change = scale * (getattr(run, name) - getattr(before, name))
        changes.setdefault(run.rule, []).append(change)
    return {
        rule: (fmean(found), stdev(found) if len(found) > 1 else 0.0)
        for rule, found in changes.items()
        if rule in changed
    }


def _told(change: tuple[float, float] | None, noise: float) -> str:
    if change is None:
        return "="
    text = f"{round(change[0], 1) + 0.0:+.1f} ±{change[1]:.1f}"  # no -0.0
    clear = abs(change[0]) > max(CLEAR * noise, change[1]) > 0.0
    return f"**{text}**" if clear else text


def main() -> None:
    options = _options()
    if options.read:
        with options.read.open() as file:
            done = [_run(row) for row in csv.DictReader(file)]
    else:
        done = _simulated(options)
    if options.json:
        print(json.dumps([run._asdict() for run in done]))
        return
    print("\n".join(tables(done)))


def _simulated(options: argparse.Namespace) -> list[Run]:
    """Each is at once in the file, so that what a run cut short has done is a table, too."""
    if options.quick:
        for name, each in REGIMES.items():
            REGIMES[name] = each._replace(loads=each.loads[:1], measured_s=each.measured_s / 2)
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(options.jobs, get_context("fork")))
        file = stack.enter_context(options.out.open("w", newline="") if options.out else StringIO())
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Run._fields)
        console = Console(stderr=True)
        done: list[Run] = []
        for seed in SEEDS[:1] if options.quick else options.seeds:
            todo = runs(seed, options.regimes, options.rules, done, sensitivity=options.sensitivity)
            found = pool.map(measured, todo)
            for run in track(found, f"seed {seed}", len(todo), console=console, transient=True):
                writer.writerow(run)
                file.flush()
                done.append(run)
    return done


def _run(row: dict[str, str]) -> Run:
    kinds = (str, int, int, str, float, float, float, int, float)
    return Run(*(kind(row[name]) for kind, name in zip(kinds, Run._fields, strict=True)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, one load, short runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=tuple(REGIMES))
    parser.add_argument(
        "--sensitivity", action="store_true", help="constants halved and doubled, no rules"
    )
    parser.add_argument("--rules", nargs="*", help="their first words; none: the policy as it is")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="simulations at a time")
    parser.add_argument("--json", action="store_true", help="print one JSON list of all runs")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="for all runs")
    parser.add_argument("--read", type=Path, metavar="FILE.csv", help="of earlier runs: no others")
    return parser.parse_args()


if __name__ == "__main__":
    main()
