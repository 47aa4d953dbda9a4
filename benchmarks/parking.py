"""A fleet whose sessions do not fit into KV memory, with host memory to park them in and without.

    python -m benchmarks.parking [--devices 48 96 144 288 400] [--seed 1] [--before] [--json]
    python -m benchmarks.parking --law h200 --step-tokens 512

The regime `fleet` of benchmarks/sim/regimes.py: the 32B shape on an H100 with 24,000 tokens of KV,
8 tokens/s promised; with `--law h200` a step takes what one of an H200 does. The engine, the
policies and the edges' streams are the real ones, time is virtual. The loads come one after
another, as in the load test (benchmarks/sim/loads.py). A copy between the two memories takes what
was measured (benchmarks/sim/target.py).
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.load.campaign import Times
from benchmarks.load.peers import HOST_KV_GIB
from benchmarks.sim.fleet import Report
from benchmarks.sim.loads import Window, in_turn
from benchmarks.sim.regimes import LAWS, REGIMES
from benchmarks.sim.target import KV_BYTES, SLOWING, SLOWING_BEFORE, Slowing
from wisp.scheduler.tuning import PolicyName, Tuning

HOST_KV_TOKENS = HOST_KV_GIB * 2**30 // KV_BYTES  # as in the load test
ACCEPTANCE = 0.7  # of a draft token, as in the other regimes
FORKS = 8  # of a session's drafts that may wait: the default of wisp-server


class Column(NamedTuple):
    policy: PolicyName
    parks: bool

    @property
    def name(self) -> str:
        return f"{self.policy}{', parked' if self.parks else ''}"


COLUMNS = (
    Column("wisp", parks=True),
    Column("wisp", parks=False),
    Column("centralized", parks=True),
    Column("centralized", parks=False),
)


class Cell(NamedTuple):
    column: Column
    devices: list[int]
    measure_s: float
    seed: int
    slowing: Slowing
    law: str
    step_tokens: int


def simulated(cell: Cell) -> tuple[list[Window], Report]:
    setup = replace(
        REGIMES["fleet"]._replace(law=cell.law).setup(ACCEPTANCE, cell.seed),
        host_kv_tokens=HOST_KV_TOKENS * cell.column.parks,
        max_forks=FORKS,
        slowing=cell.slowing,
    )
    tuning, times = Tuning(max_step_tokens=cell.step_tokens), Times(measure_s=cell.measure_s)
    return in_turn(cell.column.policy, cell.devices, setup, tuning, times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[48, 96, 144, 288, 400])
    parser.add_argument("--measure-s", type=float, default=10.0, help="of virtual time, each load")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--before", action="store_true", help="copies slow steps as those of 32 programs did"
    )
    parser.add_argument("--law", choices=list(LAWS), default="h100", help="of step times")
    parser.add_argument("--step-tokens", type=int, default=Tuning().max_step_tokens, help="at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    slowing = SLOWING_BEFORE if asked.before else SLOWING
    of_all = (asked.devices, asked.measure_s, asked.seed, slowing, asked.law, asked.step_tokens)
    cells = [Cell(column, *of_all) for column in COLUMNS]
    with ProcessPoolExecutor() as pool:
        done = pool.map(simulated, cells)
        found = list(track(done, "simulating", total=len(cells), console=Console(stderr=True)))
    if asked.json:
        columns = {
            column.name: {
                "recomputed_share": report.recomputed,
                "copied_tokens_per_s": report.copied_per_s,
                "rows": [
                    {"devices": w.devices, "attainment": w.attainment, "goodput": w.goodput}
                    for w in windows
                ],
            }
            for column, (windows, report) in zip(COLUMNS, found, strict=True)
        }
        print(json.dumps({"seed": asked.seed, "measure_s": asked.measure_s, "columns": columns}))
        return
    table = Table("devices", *(column.name for column in COLUMNS), title="attainment / goodput")
    for row in zip(*(windows for windows, _ in found), strict=True):
        said = (f"{window.attainment:.2f} / {window.goodput:.0f}" for window in row)
        table.add_row(str(row[0].devices), *said)
    table.add_section()
    table.add_row("computed twice", *(f"{report.recomputed:.3f}" for _, report in found))
    table.add_row("copied/s", *(f"{report.copied_per_s:.0f}" for _, report in found))
    Console().print(table)


if __name__ == "__main__":
    main()
