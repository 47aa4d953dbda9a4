"""Every policy in every regime of the simulator, beside what is possible there.

One row is one regime at one load and one acceptance, the mean of its seeds. Each policy gets the
best of its tunings (by goodput); `peers` are no policies: the co-located drafter, best of 2, 4 and
6 drafts. `bound` is that of `benchmarks.sim.bound` in tokens a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from benchmarks.capacity import TUNINGS, report_of, tunings
from benchmarks.load.texts import SESSION_SPREAD
from benchmarks.sim.bound import bound
from benchmarks.sim.colocated import Colocated
from benchmarks.sim.regimes import REGIMES
from benchmarks.sim.workload import steady
from wisp.scheduler.tuning import PolicyName, Tuning

POLICIES: tuple[PolicyName, ...] = ("wisp", "wisp-paper", "sled", "centralized")
ACCEPTANCES = (0.5, 0.7, 0.85)
PEER_DRAFTS = (2, 4, 6)  # drafts a step of the co-located drafter
SEEDS = (1, 2, 3)
_QUICK_SHARE = 0.5  # of the measured time
Row = dict[str, Any]


class Cell(NamedTuple):
    """One simulation; `num_drafts` for the co-located drafter alone."""

    regime: str
    devices: int
    acceptance: float
    seed: int
    policy: PolicyName
    tuning: Tuning
    measured_s: float
    num_drafts: int = 0

    @property
    def row(self) -> tuple[str, int, float]:
        return self.regime, self.devices, self.acceptance

    @property
    def name(self) -> str:
        return "co-located drafter" if self.num_drafts else self.policy


def cells(
    *,
    quick: bool,
    regimes: Sequence[str] = (),
    policies: Sequence[PolicyName] = POLICIES,
    seeds: Sequence[int] = (),
) -> list[Cell]:
    found = []
    seeds = seeds or (SEEDS[:1] if quick else SEEDS)
    for name in regimes or REGIMES:
        regime = REGIMES[name]
        loads = regime.loads[:1] if quick else regime.loads
        acceptances = regime.quick if quick else ACCEPTANCES
        measured_s = regime.measured_s * (_QUICK_SHARE if quick else 1.0)
        for devices, acceptance, seed in itertools.product(loads, acceptances, seeds):
            row = (name, devices, acceptance, seed)
            for policy in policies:
                for tuning in tunings(policy, quick=quick):
                    found.append(Cell(*row, policy, tuning, measured_s))
            for num_drafts in PEER_DRAFTS[1:2] if quick else PEER_DRAFTS:
                tuning = TUNINGS["centralized"][-1]
                found.append(Cell(*row, "centralized", tuning, measured_s, num_drafts))
    return found


def measured(cell: Cell) -> Row:
    setup = REGIMES[cell.regime].setup(cell.acceptance, cell.seed, cell.measured_s)
    if cell.num_drafts:
        own = Colocated(cell.num_drafts, cell.acceptance, SESSION_SPREAD)
        setup = replace(setup, colocated=own)
    # They arrive over the whole warm-up: a crowd at its start would be late for long.
    fleet = steady(cell.devices, 2.0 * setup.warm_up_s, cell.seed)
    report = report_of(cell.policy, fleet, setup, cell.tuning)
    return {
        "goodput": report.goodput,
        "attainment": report.attainment,
        "tokens_per_s": report.tokens_per_s,
    }


def bound_of(row: tuple[str, int, float]) -> float:
    name, devices, acceptance = row
    return bound(REGIMES[name].setup(acceptance, SEEDS[0]), devices)


def matrix(todo: Sequence[Cell], pool: ProcessPoolExecutor) -> list[Row]:
    """One object a row, in the order of the regimes."""
    console = Console(stderr=True)
    results: Iterator[Row] = pool.map(measured, todo)
    found = list(track(results, "simulating", len(todo), console=console, transient=True))
    keys = list(dict.fromkeys(cell.row for cell in todo))
    bounds = dict(zip(keys, pool.map(bound_of, keys), strict=True))
    return [_row(key, bounds[key], todo, found) for key in keys]


def _row(
    key: tuple[str, int, float], most: float, todo: Sequence[Cell], found: Sequence[Row]
) -> Row:
    regime, devices, acceptance = key
    by_way: dict[tuple[str, Any], list[Row]] = {}
    for cell, result in zip(todo, found, strict=True):
        if cell.row == key:
            by_way.setdefault((cell.name, (cell.tuning, cell.num_drafts)), []).append(result)
    best: dict[str, Row] = {}
    for (name, _), results in by_way.items():
        means = {field: fmean(each[field] for each in results) for field in results[0]}
        if name not in best or means["goodput"] > best[name]["goodput"]:
            best[name] = {field: round(mean, 4) for field, mean in means.items()}
    peers = {name: best.pop(name) for name in list(best) if name == "co-located drafter"}
    plain = best.get("centralized", {}).get("tokens_per_s")
    return {
        "regime": f"{regime}, {devices} devices, acceptance {acceptance:g}",
        "policies": best,
        "peers": peers,
        "bound": round(most, 1),
        "share_of_bound": round(best["wisp"]["goodput"] / most, 3) if "wisp" in best else None,
        "gain": round(best["wisp"]["tokens_per_s"] / plain, 3)
        if plain and "wisp" in best
        else None,
    }


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """A table in Markdown: goodput (promises attained)."""
    names = list(dict.fromkeys(name for row in rows for name in (*row["policies"], *row["peers"])))
    yield "| regime | " + " | ".join(names) + " | bound | wisp / bound |"
    yield "| --- |" + " --- |" * (len(names) + 2)
    for row in rows:
        found = {**row["policies"], **row["peers"]}
        told = (
            f"{found[name]['goodput']:.0f} ({found[name]['attainment']:.2f})"
            if name in found
            else ""
            for name in names
        )
        yield (
            f"| {row['regime']} | "
            + " | ".join(told)
            + (f" | {row['bound']:.0f} | {row['share_of_bound']} |")
        )
