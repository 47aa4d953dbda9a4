"""What each rule of the policy `wisp` is worth: switched off alone, in the simulator.

    python -m benchmarks.ablation [--quick] [--json] [--out FILE.csv] [--jobs N]
    python -m benchmarks.ablation --rules scarce aim --regimes paper --seeds 1 2 3 4 5
    python -m benchmarks.ablation --read FILE.csv

A rule is overridden from outside (benchmarks/rules.py), and a fleet is simulated with and without
it: five regimes, loads at and above the capacity, several seeds. Promises are judged of every
session alive after the warm-up, so that none can be starved for free.

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

from benchmarks.capacity import STEP_TIMES, TUNINGS, report_of, setup_of
from benchmarks.rules import RULES, switched_off
from benchmarks.sim.fleet import Setup
from benchmarks.sim.regimes import LAWS
from benchmarks.sim.step_times import StepTimes
from benchmarks.sim.workload import Lengths, Workload, steady

BASE = "all rules"
SEEDS = (1, 2, 3)
CLEAR = 2.0  # times the noise of its column: a smaller change may be chance


class Regime(NamedTuple):
    step_times: StepTimes
    loads: tuple[int, ...]  # near the capacity, and above it
    rate: float = 8.0
    acceptance: float = 0.7
    workload: Workload = Workload()
    warm_up_s: float = 20.0
    measured_s: float = 15.0

    def setup(self, seed: int) -> Setup:
        setup = setup_of(self.step_times, self.rate, self.acceptance, self.measured_s, seed)
        return replace(setup, workload=self.workload, warm_up_s=self.warm_up_s)


REGIMES = {
    "paper": Regime(STEP_TIMES["paper"], (95, 125)),
    "measured": Regime(STEP_TIMES["measured"], (120, 160), warm_up_s=15.0, measured_s=10.0),
    "h200": Regime(STEP_TIMES["h200"], (62, 90), 40.0, 0.7, warm_up_s=8.0, measured_s=6.0),
    "half": Regime(LAWS["half"], (20, 32)),
    "prompts 512": Regime(
        STEP_TIMES["paper"], (35, 55), workload=Workload(Lengths(512.0), Lengths(256.0))
    ),
    "memory full": Regime(STEP_TIMES["paper"], (165,), 4.0, warm_up_s=90.0),
}
USUAL = ("paper", "measured", "h200", "half", "prompts 512")  # "memory full" takes long


class Run(NamedTuple):
    regime: str
    devices: int
    seed: int
    rule: str  # that is off
    goodput: float = 0.0
    attained: float = 0.0
    tokens_per_s: float = 0.0
    num_steps: int = 0


def measured(run: Run) -> Run:
    regime = REGIMES[run.regime]
    with switched_off(None if run.rule == BASE else run.rule):
        # They arrive over the whole warm-up: a crowd at its start would be late for long.
        fleet = steady(run.devices, 2.0 * regime.warm_up_s, run.seed)
        report = report_of("wisp", fleet, regime.setup(run.seed), TUNINGS["wisp"][0])
    return run._replace(
        goodput=round(report.goodput, 4),
        attained=round(report.attainment, 4),
        tokens_per_s=round(report.tokens_per_s, 4),
        num_steps=report.num_steps,
    )


def runs(
    seed: int, regimes: Sequence[str], rules: Sequence[str] | None, done: Sequence[Run]
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
        for rule in (BASE, *RULES)
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
            REGIMES[name] = each._replace(loads=each.loads[:1], measured_s=each.measured_s / 3)
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(options.jobs, get_context("fork")))
        file = stack.enter_context(options.out.open("w", newline="") if options.out else StringIO())
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Run._fields)
        console = Console(stderr=True)
        done: list[Run] = []
        for seed in SEEDS[:1] if options.quick else options.seeds:
            todo = runs(seed, options.regimes, options.rules, done)
            found = pool.map(measured, todo)
            for run in track(found, f"seed {seed}", len(todo), console=console, transient=True):
                writer.writerow(run)
                file.flush()
                done.append(run)
    return done


def _run(row: dict[str, str]) -> Run:
    kinds = (str, int, int, str, float, float, float, int)
    return Run(*(kind(row[name]) for kind, name in zip(kinds, Run._fields, strict=True)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, one load, short runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=USUAL)
    parser.add_argument("--rules", nargs="*", help="their first words; none: the policy as it is")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="simulations at a time")
    parser.add_argument("--json", action="store_true", help="print one JSON list of all runs")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="for all runs")
    parser.add_argument("--read", type=Path, metavar="FILE.csv", help="of earlier runs: no others")
    return parser.parse_args()


if __name__ == "__main__":
    main()
