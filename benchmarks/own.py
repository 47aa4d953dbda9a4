"""Drafts from wherever they are cheapest, in the simulator: edges, the server's drafter, or both.

    python -m benchmarks.own [--quick] [--acceptances 0.7] [--seeds 1 2 3] [--ways own] [--json]

One row is a regime of the matrix at one load, with edges that draft or without. `edges` is the
policy `wisp` as it is, `own` the same with a drafter beside the target, `co-located` a drafter that
drafts for everybody in every step, as plain vLLM is given one: the best of 2, 4 and 6 drafts. Both
take 2.5 ms a draft, as measured (benchmarks/sim/colocated.py), or `--draft-ms`; neither its weights
nor its KV are counted. Goodput, of all tokens a second, the promises attained, and the median wait
for a first token: means of seeds. `--few 60` promises one device in twelve so many tokens/s, and
adds the share of those promises that is attained.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

from msgspec import structs

from benchmarks.capacity import TUNINGS, report_of
from benchmarks.load.texts import SESSION_SPREAD
from benchmarks.matrix import PEER_DRAFTS
from benchmarks.sim.colocated import Colocated
from benchmarks.sim.regimes import REGIMES as OF_MATRIX
from benchmarks.sim.step_times import H200, QWEN3_32B
from benchmarks.sim.workload import steady
from wisp.core.slo import Slo
from wisp.scheduler.tuning import PolicyName

COMPARED = ("lan fast", "lan laptop", "30 ms fast", "fleet", "8b")
# Of KV beside the 32B shape, as vLLM takes 0.9 of the card's memory unless told otherwise.
_KV_H200 = int((0.9 * H200.memory_bytes - QWEN3_32B.weight_bytes) / QWEN3_32B.kv_bytes)
REGIMES = {
    **OF_MATRIX,
    "fleet h200": OF_MATRIX["fleet"]._replace(law="h200", kv_tokens=_KV_H200),
    "fleet h200, 96": OF_MATRIX["fleet"]._replace(law="h200", kv_tokens=_KV_H200, loads=(96,)),
}
MAX_OWN = 6  # own drafts of a session; chosen: as many as the co-located drafter may have
WAYS = ("plain", "edges", "own", *(f"co-located {count}" for count in PEER_DRAFTS))


class Cell(NamedTuple):
    """One simulation."""

    regime: str
    devices: int
    edges_draft: bool
    acceptance: float
    seed: int
    way: str
    measured_s: float
    draft_s: float
    few: float | None
    max_step_tokens: int

    @property
    def row(self) -> str:
        edges = "" if self.edges_draft else ", no edges"
        return f"{self.regime}, {self.devices} devices{edges}, acceptance {self.acceptance:g}"


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    for name, acceptance in itertools.product(options.regimes, options.acceptances):
        regime = REGIMES[name]
        loads = regime.loads[:1] if options.quick else sorted(regime.loads)
        measured_s = regime.measured_s * (0.5 if options.quick else 1.0)
        for devices, edges_draft, seed, way in itertools.product(
            loads, (True, False), options.seeds, options.ways
        ):
            yield Cell(
                name,
                devices,
                edges_draft,
                acceptance,
                seed,
                way,
                measured_s,
                options.draft_ms / 1e3,
                options.few,
                options.max_step_tokens,
            )


def measured(cell: Cell) -> tuple[float, ...]:
    """Goodput, tokens a second, the share of promises attained, and the wait for a first token."""
    setup = REGIMES[cell.regime].setup(cell.acceptance, cell.seed, cell.measured_s)
    few = Slo(tokens_per_s=cell.few, first_token_s=2.0) if cell.few else None
    setup = replace(setup, edges_draft=cell.edges_draft, few=few)
    policy: PolicyName = "centralized"
    if cell.way.startswith("co-located"):
        count = int(cell.way.split()[1])
        drafter = Colocated(count, cell.acceptance, SESSION_SPREAD, cell.draft_s)
        setup = replace(setup, colocated=drafter)
    elif cell.way != "plain":
        policy = "wisp"
    if cell.way == "own":
        drafter = Colocated(MAX_OWN, cell.acceptance, SESSION_SPREAD, cell.draft_s)
        setup = replace(setup, own=drafter)
    fleet = steady(cell.devices, 2.0 * setup.warm_up_s, cell.seed)
    tuning = structs.replace(TUNINGS[policy][-1], max_step_tokens=cell.max_step_tokens)
    report = report_of(policy, fleet, setup, tuning)
    found = report.goodput, report.tokens_per_s, report.attainment, report.first_token_s
    return (*found, report.attained_of(few)) if few else found


def rows_of(todo: Sequence[Cell], found: Sequence[tuple[float, ...]]) -> dict[str, Any]:
    """By row, then by way; of the co-located drafters the best by goodput."""
    results: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for cell, result in zip(todo, found, strict=True):
        results.setdefault(cell.row, {}).setdefault(cell.way, []).append(result)
    rows = {}
    for row, ways in results.items():
        means = {
            way: tuple(round(fmean(each), 3) for each in zip(*seeds, strict=True))
            for way, seeds in ways.items()
        }
        peers = [way for way in means if way.startswith("co-located")]
        rows[row] = {way: means[way] for way in means if way not in peers}
        if peers:
            rows[row]["co-located"] = max(means[way] for way in peers)
    return rows


def lines(rows: dict[str, Any]) -> Iterator[str]:
    names = list(next(iter(rows.values())))
    yield "| regime | " + " | ".join(names) + " |"
    yield "| --- |" + " --- |" * len(names)
    for row, ways in rows.items():
        told = " | ".join(
            f"{goodput:.0f} of {tokens:.0f} ({share:.2f}; {1e3 * first_s:.0f} ms{_of_few(few)})"
            for goodput, tokens, share, first_s, *few in ways.values()
        )
        yield f"| {row} | {told} |"


def _of_few(few: Sequence[float]) -> str:
    return "".join(f"; few {share:.2f}" for share in few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=COMPARED)
    parser.add_argument("--acceptances", nargs="+", type=float, default=[0.7])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--max-step-tokens", type=int, default=512)
    parser.add_argument("--few", type=float, help="tokens/s promised to one device in twelve")
    parser.add_argument("--draft-ms", type=float, default=2.5, help="a draft of all sessions")
    parser.add_argument("--quick", action="store_true", help="one load, half the time")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    todo = list(cells(options))
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = rows_of(todo, list(pool.map(measured, todo)))
    print(json.dumps(rows, indent=1) if options.json else "\n".join(lines(rows)))


if __name__ == "__main__":
    main()
