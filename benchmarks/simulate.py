"""The paper's set-up as a simulated fleet: capacity and goodput of every policy.

    python -m benchmarks.simulate [--step-times paper|measured] [--rates 2 4] [--json] [--out DIR]
    python -m benchmarks.simulate --matrix [--quick] [--regimes NAME ...] [--json]
    python -m benchmarks.simulate --quick
    python -m benchmarks.simulate --sensitivity | --bursts | --waste | --one wisp --devices 1000
    python -m benchmarks.simulate --record FILE [--target DIR --draft DIR]

Devices of four kinds share one A100-80GB that serves a 32B model. The engine, the policies, the
estimator and the edges' streams are the real ones, time is virtual (benchmarks/sim). Capacity: the
most devices with which at least 95 % of the sessions got what they were promised; goodput is the
highest over the loads tried, at the last of the rates. What is assumed:
docs/measurements/simulator.md.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import time
from collections.abc import Iterator, Sequence, Sized
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from benchmarks.capacity import (
    STEP_TIMES,
    TUNINGS,
    Burst,
    Point,
    best_capacity,
    best_point,
    burst_point,
    described,
    point,
    setup_of,
)
from benchmarks.matrix import cells, lines, matrix
from benchmarks.sim.fleet import Setup, simulate
from benchmarks.sim.regimes import REGIMES
from benchmarks.sim.step_times import A100, QWEN3_32B, LinearTimes, implied_by_paper
from benchmarks.sim.text import RecordedTexts
from benchmarks.sim.workload import Lengths, Workload
from wisp import __version__
from wisp.config import TINY
from wisp.edge.predictor import LogisticPredictor
from wisp.scheduler.tuning import POLICIES, PolicyName, Tuning

SEED = 1  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
# A draft token's, as the paper's first author publishes it for Qwen3-32B with a drafter of 0.6
# billion parameters (github.com/leexcape/Llamacpp-Latency-Profiler): 0.67 to 0.74.
ACCEPTANCE = 0.7
RATES = (2.0, 4.0, 6.0, 8.0)
COMPARED: tuple[PolicyName, ...] = ("wisp", "wisp-paper", "sled", "centralized")
LOADS = (10, 20, 30, 40, 60, 80, 100, 125, 155)
QUICK_RATES, QUICK_LOADS, QUICK_S = (8.0,), (40, 80), 15.0
RECORDED = Path(__file__).parent / "data" / "tiny_pair_texts.npz"
TEMPERATURES = (0.0, 0.8)  # of the recording
WASTE_DEVICES = 30
SENSITIVITY_DEVICES = 60
BURSTS = tuple(Burst(30, peak) for peak in (110, 155, 215))
PAPER_CAPACITY: dict[str, dict[float, int]] = {
    "wisp": {2.0: 164, 4.0: 142, 6.0: 103, 8.0: 86},
    "centralized": {2.0: 97, 4.0: 80, 6.0: 54, 8.0: 41},
    "sled": {2.0: 83, 4.0: 42, 6.0: 27, 8.0: 21},
}
# Goodput in tokens/s, as the paper says.
PAPER_GOODPUT = {"wisp": 631.86, "centralized": 326.12, "sled": 170.82}
Row = dict[str, Any]
T = TypeVar("T")


def main() -> None:
    options = _options()
    if options.record:
        from benchmarks.recorded import write  # it loads torch

        print(json.dumps(write(options.record, options.target, options.draft, TEMPERATURES)))
        return
    if options.one:
        print(json.dumps(one(options)))
        return
    with ProcessPoolExecutor(options.jobs) as pool:
        if options.matrix:
            todo = cells(
                quick=options.quick,
                regimes=options.regimes,
                policies=options.policies,
                seeds=options.seeds,
            )
            rows = matrix(todo, pool)
            if options.json:
                print(json.dumps({"setting": {"wisp": __version__}, "rows": rows}))
            else:
                print("\n".join(lines(rows)))
            return
        if options.sensitivity:
            tables = {"sensitivity": sensitivity(options, pool)}
        elif options.waste:
            tables = {"waste": waste(options, pool)}
        elif options.bursts:
            tables = {"bursts": bursts(options, pool)}
        else:
            tables = {"capacity": capacities(options, pool)}
            tables |= {"loads": loads(options, pool)} if options.loads else {}
    if options.out:
        for name, rows in tables.items():
            _save(options.out / f"sim_{name}_{options.step_times}.csv", rows)
    if options.json:
        print(json.dumps({"setting": setting(options), **_by_name(tables)}))
        return
    print(", ".join(f"{name} {value}" for name, value in setting(options).items()))
    for name, rows in tables.items():
        print(f"\n{name}")
        for line in _lines(rows):
            print(line)
    if "capacity" in tables:
        print()
        for line in _ratios(_by_name(tables)):
            print(line)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--step-times", choices=STEP_TIMES, default="paper", help="what a step takes"
    )
    parser.add_argument("--rates", type=float, nargs="+", help="tokens/s promised")
    parser.add_argument(
        "--loads", type=int, nargs="*", help="numbers of devices; none: capacities alone"
    )
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=COMPARED)
    parser.add_argument(
        "--acceptance", type=float, default=ACCEPTANCE, help="of a draft token, mean"
    )
    parser.add_argument("--seconds", type=float, help="of virtual time, measured")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="unless told otherwise one rate, two loads, short runs; the first tunings alone",
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--seeds", type=int, nargs="+", default=(), help="of --matrix")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="folder for CSV files")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="simulations at a time")
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=(), help="of --matrix")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--matrix", action="store_true", help="every policy in every regime")
    what.add_argument("--sensitivity", action="store_true", help="vary what is assumed, one by one")
    what.add_argument("--bursts", action="store_true", help="attainment while the load jumps")
    what.add_argument("--waste", action="store_true", help="drafting for nothing, by policy")
    what.add_argument("--one", choices=POLICIES, metavar="POLICY", help="one run, and its time")
    what.add_argument("--record", type=Path, metavar="FILE", help="a pair's texts, to replay")
    parser.add_argument("--devices", type=int, default=1000, help="of --one")
    parser.add_argument("--think-s", type=float, default=300.0, help="between requests, of --one")
    parser.add_argument("--target", type=Path, default=TINY / "target", help="of --record")
    parser.add_argument("--draft", type=Path, default=TINY / "draft", help="of --record")
    options = parser.parse_args()
    quick = options.quick
    options.rates = options.rates or (QUICK_RATES if quick else RATES)
    options.seconds = options.seconds or (QUICK_S if quick else 120.0)
    if options.loads is None:
        options.loads = QUICK_LOADS if quick else LOADS
    return options


def capacities(options: argparse.Namespace, pool: Executor) -> list[Row]:
    cells = [(policy, rate) for rate in options.rates for policy in options.policies]
    setups = [_setup(options, rate) for _, rate in cells]
    quick = [options.quick] * len(cells)
    found = pool.map(best_capacity, [policy for policy, _ in cells], setups, quick)
    return [
        {
            "policy": policy,
            "rate": rate,
            "devices": devices,
            "paper": PAPER_CAPACITY.get(policy, {}).get(rate, ""),
            "tuning": described(tuning),
        }
        for (policy, rate), (devices, tuning) in zip(cells, _watched(found, cells), strict=True)
    ]


def loads(options: argparse.Namespace, pool: Executor) -> list[Row]:
    setup = _setup(options, options.rates[-1])
    cells = [(policy, load) for policy in options.policies for load in options.loads]
    count = len(cells)
    quick = [options.quick] * count
    found = pool.map(best_point, *zip(*cells, strict=True), [setup] * count, quick)
    return [
        {"policy": policy, "devices": load, "rate": setup.slo.tokens_per_s, **_rounded(found_point)}
        | {"tuning": described(tuning)}
        for (policy, load), (found_point, tuning) in zip(cells, _watched(found, cells), strict=True)
    ]


def bursts(options: argparse.Namespace, pool: Executor) -> list[Row]:
    setup = _setup(options, options.rates[-1])
    policies: list[PolicyName] = [*options.policies, "fcfs"]
    tried = BURSTS[::2] if options.quick else BURSTS
    cells = [(policy, burst) for burst in tried for policy in policies]
    count = len(cells)
    quick = [options.quick] * count
    found = pool.map(burst_point, *zip(*cells, strict=True), [setup] * count, quick)
    return [
        {"policy": policy, "base": burst.base, "peak": burst.peak, **_rounded(found_point)}
        | {"tuning": described(tuning)}
        for (policy, burst), (found_point, tuning) in zip(
            cells, _watched(found, cells), strict=True
        )
    ]


def waste(options: argparse.Namespace, pool: Executor) -> list[Row]:
    """At a load that all hold: fixed lengths of synchronous drafting, and `wisp`."""
    setup = _setup(options, options.rates[-1])
    cases: dict[str, tuple[PolicyName, Tuning]] = {
        f"{length} drafts": ("sled", Tuning(block_tokens=length, batch_size=32, batch_wait_s=0.02))
        for length in (2, 4, 8)
    }
    cases["wisp-paper"] = ("wisp-paper", Tuning())
    cases["wisp"] = ("wisp", Tuning())
    policies, tunings = zip(*cases.values(), strict=True)
    count = len(cases)
    found = pool.map(point, policies, [WASTE_DEVICES] * count, [setup] * count, tunings)
    return [
        {"case": case, **_rounded(each)}
        for case, each in zip(cases, _watched(found, cases), strict=True)
    ]


def sensitivity(options: argparse.Namespace, pool: Executor) -> list[Row]:
    """Goodput and attainment at the last rate with one assumption changed at a time; the first
    tuning of each policy."""
    cases = _cases(options)
    cells = [(case, policy) for case in cases for policy in options.policies]
    found = pool.map(
        point,
        [policy for _, policy in cells],
        [SENSITIVITY_DEVICES] * len(cells),
        [cases[case] for case, _ in cells],
        [TUNINGS[policy][0] for _, policy in cells],
    )
    points = dict(zip(cells, _watched(found, cells), strict=True))
    return [
        {"case": case}
        | {policy: round(points[case, policy].goodput, 1) for policy in options.policies}
        | {f"{name} attained": round(points[case, name].attainment, 3) for name in options.policies}
        for case in cases
    ]


def _cases(options: argparse.Namespace) -> dict[str, Setup]:
    base = _setup(options, options.rates[-1])
    cases = {"as assumed": base}
    for acceptance in (0.5, 0.6, 0.8, 0.9):
        texts = setup_of(base.step_times, 1.0, acceptance, 1.0, 1).texts
        cases[f"acceptance {acceptance:g}"] = replace(base, texts=texts)
    for share in (0.0, 0.5):
        step_times = paper_step_times(seat_share=share)
        cases[f"paper's step times, {share:.0%} of it the session's"] = replace(
            base, step_times=step_times
        )
    other = "measured" if options.step_times == "paper" else "paper"
    cases[f"step times {other}"] = replace(base, step_times=STEP_TIMES[other])
    for temperature in TEMPERATURES:
        cases[f"the bundled pair's texts at {temperature:g}"] = replace(
            base, texts=RecordedTexts(RECORDED, temperature), predictor=LogisticPredictor
        )
    for factor in (0.5, 2.0):
        cases[f"KV memory x {factor:g}"] = replace(base, kv_tokens=int(factor * base.kv_tokens))
    short = Workload(Lengths(64.0), Lengths(128.0))
    cases["prompts 64, outputs 128"] = replace(base, workload=short)
    long = Workload(Lengths(512.0), Lengths(256.0))
    cases["prompts 512, outputs 256"] = replace(base, workload=long)
    for device in base.devices:
        cases[f"only {device.name}"] = replace(base, devices=(device,))
    cases["first token in 5 s"] = replace(
        base, slo=type(base.slo)(tokens_per_s=base.slo.tokens_per_s, first_token_s=5.0)
    )
    cases["another seed"] = replace(base, seed=base.seed + 1)
    return cases


def paper_step_times(seat_share: float) -> LinearTimes:
    """3.07 ms for each decoded token of a session, split between the session and the token."""
    step_times = implied_by_paper(A100, QWEN3_32B)
    whole_s = step_times.seat_s + step_times.token_s
    return step_times._replace(seat_s=seat_share * whole_s, token_s=(1.0 - seat_share) * whole_s)


def one(options: argparse.Namespace) -> Row:
    """One simulation, with the time it took here."""
    policy: PolicyName = options.one
    base = _setup(options, options.rates[-1])
    setup = replace(base, workload=Workload(think_s=options.think_s))
    start_s = time.perf_counter()
    gc.disable()
    report = simulate(policy, options.devices, setup, TUNINGS[policy][0])
    gc.enable()
    return {
        "policy": policy,
        "devices": options.devices,
        "virtual_s": setup.end_s,
        "real_s": round(time.perf_counter() - start_s, 1),
        "events": report.num_events,
        "steps": report.num_steps,
        "seats_per_step": round(report.seats_per_step, 1),
        "attainment": round(report.attainment, 4),
        "goodput": round(report.goodput, 1),
    }


def _setup(options: argparse.Namespace, rate: float) -> Setup:
    step_times = STEP_TIMES[options.step_times]
    return setup_of(step_times, rate, options.acceptance, options.seconds, options.seed)


def setting(options: argparse.Namespace) -> Row:
    return {
        "wisp": __version__,
        "step_times": options.step_times,
        **STEP_TIMES[options.step_times].about,
        "kv_tokens": Setup().kv_tokens,
        "acceptance": options.acceptance,
        "seconds": options.seconds,
        "seed": options.seed,
    }


def _watched(found: Iterator[T], cells: Sized) -> Iterator[T]:
    """With a progress bar on the terminal."""
    console = Console(stderr=True)
    yield from track(found, "simulating", total=len(cells), console=console, transient=True)


def _rounded(found: Point) -> Row:
    return {name: round(value, 4) for name, value in found._asdict().items()}


def _by_name(tables: dict[str, list[Row]]) -> Row:
    """`capacity.POLICY.RATE` and `goodput.POLICY`; other tables as they are."""
    if "capacity" not in tables:
        return dict(tables)
    capacity: dict[str, dict[str, int]] = {}
    for row in tables["capacity"]:
        capacity.setdefault(row["policy"], {})[f"{row['rate']:g}"] = row["devices"]
    goodput: dict[str, float] = {}
    for row in tables.get("loads", []):
        goodput[row["policy"]] = max(goodput.get(row["policy"], 0.0), row["goodput"])
    return {"capacity": capacity, "goodput": goodput, "loads": tables.get("loads", [])}


def _ratios(figures: Row) -> Iterator[str]:
    """Beside the paper's own."""
    capacity, goodput = figures["capacity"], figures["goodput"]
    for policy in capacity:
        if policy == "wisp" or "wisp" not in capacity:
            continue
        for rate, devices in capacity[policy].items():
            ratio = capacity["wisp"][rate] / max(1, devices)
            own = PAPER_CAPACITY.get(policy, {}).get(float(rate))
            told = f"  paper {PAPER_CAPACITY['wisp'][float(rate)] / own:.2f}" if own else ""
            yield f"capacity wisp / {policy:12} at {rate:>3} tokens/s  {ratio:5.2f}{told}"
        if goodput.get(policy):
            own_goodput = PAPER_GOODPUT.get(policy)
            told = f"  paper {PAPER_GOODPUT['wisp'] / own_goodput:.2f}" if own_goodput else ""
            ratio = goodput["wisp"] / goodput[policy]
            yield f"goodput  wisp / {policy:12} {'':17}{ratio:5.2f}{told}"


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in rows[0]}
    yield "  ".join(f"{name:>{width}}" for name, width in widths.items())
    for row in rows:
        yield "  ".join(f"{row[name]!s:>{width}}" for name, width in widths.items())


def _save(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
