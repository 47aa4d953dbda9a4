"""The load test of a GPU: WISP beside what its users would pick instead, in one command.

    python -m benchmarks.load.suite --regimes all --out DIR --budget-s 400
    python -m benchmarks.load.suite --regimes lan-fast-60:24,8 wan-mix-8 --out DIR
    python -m benchmarks.load.suite --shape 32b --kv-tokens 61035 --out DIR --budget-s 400

With `--regimes` each part is one server, and takes every load of the regimes (of NAME:DEVICES,...
only those) under its policies: `vllm` and its own speculation (`benchmarks.load.peers`),
wisp-server as it is, and one that takes its steps one by one; `wisp-parked` and `vllm-offload` have
host memory for KV, `wisp-drafter` has a drafter on the GPU and `wisp-eagle` an EAGLE-3 head. `gain`
is goodput over that of plain vLLM in the same run. DIR/summary.csv has a line for each load: the
best of vLLM's drafters beside WISP. With `--turns` each server is first asked for turns of
conversations that come back (`benchmarks.load.turns`), with `--steps N ...` how long its steps take
for N plain clients (`benchmarks.load.steps`).

Without it every policy is measured on one server, then plain vLLM, at `--loads` of `--rates`, and
their capacities, which go to DIR/capacity.csv.

Each part gets the budget, its server's start included; a load that would not end in time is not
begun. Rows go to DIR/PART.csv as they are made. `--parts wisp` and `--parts vllm` are for two GPUs
side by side.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.load.campaign import PLAIN, PUBLISHED_SLED, Campaign, Load, OutOfTime, append
from benchmarks.load.fleet import Row
from benchmarks.load.own import drafter_flags
from benchmarks.load.peers import (
    DRAFT_PEERS,
    HEAD_PEERS,
    HOST_KV_GIB,
    NGRAM_PEERS,
    OFFLOAD_PEER,
    PEERS,
)
from benchmarks.load.regimes import KV_TOKENS, NAMES, REGIMES, Regime, chosen, in_turn
from benchmarks.load.running import add_options, population, running
from benchmarks.load.steps import steps
from benchmarks.load.target import config
from benchmarks.load.turns import turns
from benchmarks.setting import setting
from wisp.errors import WispError
from wisp.scheduler.tuning import POLICIES
from wisp.testing.drafter import COVERAGE

WISP, ONE_BY_ONE = "wisp", "wisp-one-by-one"
# Whose edges do not fork, since the server takes no forks: beside `wisp`, what forks bring.
NO_FORKS = "wisp-no-forks"
DRAFTER = "wisp-drafter"  # with a drafter beside the target, as `vllm-draft-K` has
HEAD = "wisp-eagle"  # with an EAGLE-3 head, as `vllm-eagle-K` has
PARKED = "wisp-parked"  # with host memory for KV, beside `vllm-offload`
FLAGS: dict[str, tuple[str, ...]] = {
    WISP: (),
    ONE_BY_ONE: ("--no-engine.overlap",),
    NO_FORKS: ("--speculation.max_forks=0",),
    DRAFTER: (),  # and those of `benchmarks.load.own.drafter_flags`
    HEAD: (),  # and those
    PARKED: (f"--engine.host_kv_gib={HOST_KV_GIB}",),
}
ON_REQUEST = (
    NO_FORKS,
    DRAFTER,
    HEAD,
    *HEAD_PEERS,
    PARKED,
    OFFLOAD_PEER,
)  # which only some regimes say something of
REGIME_PARTS = (PLAIN, *DRAFT_PEERS, *NGRAM_PEERS, WISP, ONE_BY_ONE)
CAPACITY_POLICIES = ("wisp", "centralized", "wisp-paper", "sled")
REGIME_POLICIES = ("wisp", "centralized", "sled", PUBLISHED_SLED)
ACCEPTANCE, OTHER_ACCEPTANCES = 0.7, (0.5, 0.85)
TUNED_AT = 48  # devices
Work = Callable[[Campaign], None]


def main() -> int:
    options = _options()
    # Whoever ends the suite ends its servers, which hold the GPUs.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    options.out.mkdir(parents=True, exist_ok=True)
    about = setting(options.seed, arguments=sys.argv[1:])
    (options.out / "setting.json").write_text(json.dumps(about, indent=1) + "\n")
    if options.regimes:
        return run_regimes(options)
    codes = []
    for part in options.parts or (WISP, PLAIN):
        works = plain_works(options) if part == PLAIN else wisp_works(options)
        codes.append(run_part(part, options, works, [])[0])
    return max(codes)


def run_regimes(options: argparse.Namespace) -> int:
    regimes = chosen(options.regimes)
    baseline: dict[Load, float] = {}
    codes, rows = [], []
    for shape in dict.fromkeys(each.shape or options.shape for each in regimes):
        ours = [each for each in regimes if (each.shape or options.shape) == shape]
        kv_tokens = options.kv_tokens or KV_TOKENS.get(shape)
        sized = argparse.Namespace(**(vars(options) | {"shape": shape, "kv_tokens": kv_tokens}))
        for part in options.parts or REGIME_PARTS:
            works = [*regime_works(part, ours, options)]
            if options.turns and kv_tokens:
                works.insert(0, _turns(part, sized))
            works[:0] = [_steps(part, sized, number) for number in options.steps]
            code, found = run_part(part, sized, works, FLAGS.get(part, ()), baseline)
            codes.append(code)
            rows += found
    lines = list(summary(rows))
    for line in lines:
        append(options.out / "summary.csv", line)
        _say(", ".join(f"{name} {value}" for name, value in line.items() if value is not None))
    return max(codes)


def run_part(
    part: str,
    options: argparse.Namespace,
    works: Iterable[Work],
    flags: Sequence[str],
    baseline: dict[Load, float] | None = None,
) -> tuple[int, list[Row]]:
    """An exit code, and the rows that were made."""
    end_s = time.monotonic() + options.budget_s
    folder = options.out / f"{part}-{options.shape}-server"
    rows: list[Row] = []
    if part in (DRAFTER, HEAD):
        is_head = part == HEAD
        of_drafter = drafter_flags(folder, options.shape, options.acceptance, is_head=is_head)
        flags = [*flags, *of_drafter]
    try:
        with running(
            options,
            folder,
            part=part,
            csv=options.out / f"{part}.csv",
            end_s=end_s,
            flags=flags,
            acceptance=options.acceptance,
            baseline=baseline,
        ) as campaign:
            _say(f"{part}: the server is there, {end_s - time.monotonic():.0f} s are left")
            try:
                for work in works:
                    work(campaign)
            finally:
                rows = campaign.rows
        _say(f"{part}: done")
    except OutOfTime:
        _say(f"{part}: the budget is spent")
    except WispError as error:
        _say(f"{part}: {error}")
        return 1, rows
    finally:
        for name in ("target", "drafter"):
            shutil.rmtree(folder / name, ignore_errors=True)
    return 0, rows


def regime_works(
    part: str, regimes: Sequence[Regime], options: argparse.Namespace
) -> Iterator[Work]:
    policies = [part] if part in PEERS else options.policies
    for load in in_turn(regimes, options.acceptance, tuple(options.coverage)):
        for policy in policies:
            yield _best_point(policy, load)


def summary(rows: Sequence[Row]) -> Iterator[Row]:
    """Each load in one line: goodput, and the gain over plain vLLM, of the best drafter and of
    every policy that was measured anywhere."""
    told = [name for name, found in _columns(rows).items() if found]
    loads = dict.fromkeys((row["regime"], row["devices"], row["acceptance"]) for row in rows)
    for regime, devices, acceptance in loads:
        ours = [
            row
            for row in rows
            if (row["regime"], row["devices"], row["acceptance"]) == (regime, devices, acceptance)
        ]
        line: Row = {"regime": regime, "devices": devices, "acceptance": acceptance}
        columns = _columns(ours)
        for name in told:
            best = max(columns[name], key=lambda row: float(row["goodput"]), default=None)
            for key in ("goodput", "gain", "attainment"):
                line[f"{name} {key}"] = best and best[key]
        drafters = [row for row in ours if row["part"] in DRAFT_PEERS]
        best = max(drafters, key=lambda row: float(row["goodput"]), default=None)
        line["best drafter"] = best and best["part"]
        yield line


def _columns(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by what is told of each load; the same names for every load."""
    found = {PLAIN: [row for row in rows if row["part"] == PLAIN]}
    found["vllm-draft"] = [row for row in rows if row["part"] in DRAFT_PEERS]
    found["vllm-eagle"] = [row for row in rows if row["part"] in HEAD_PEERS]
    found["vllm-ngram"] = [row for row in rows if str(row["part"]).startswith("vllm-ngram")]
    for part in FLAGS:
        for policy in (*POLICIES, PUBLISHED_SLED):
            name = part if policy == WISP else f"{part}: {policy}"
            found[name] = [r for r in rows if r["part"] == part and r["policy"] == policy]
    return found


def wisp_works(options: argparse.Namespace) -> Iterator[Work]:
    """Each load under every policy before the next load; then what lies between the loads."""
    users = population(options)
    yield _best_point("sled", Load(users, options.rates[0], ACCEPTANCE, TUNED_AT))
    for rate in options.rates:
        load = Load(users, rate, ACCEPTANCE, options.loads[0])
        for devices in options.loads:
            for policy in CAPACITY_POLICIES:
                yield _point(policy, replace(load, devices=devices))
        for policy in CAPACITY_POLICIES:
            yield _capacity(options, policy, load)
    for acceptance in OTHER_ACCEPTANCES:
        load = Load(users, options.rates[0], acceptance, options.loads[0])
        yield _capacity(options, "wisp", load)


def plain_works(options: argparse.Namespace) -> Iterator[Work]:
    for rate in options.rates:
        load = Load(population(options), rate, ACCEPTANCE, options.loads[0])
        for devices in options.loads:
            yield _point(PLAIN, replace(load, devices=devices))
        yield _capacity(options, PLAIN, load)


def _best_point(policy: str, load: Load) -> Work:
    def work(campaign: Campaign) -> None:
        campaign.best_point(policy, load)

    return work


def _point(policy: str, load: Load) -> Work:
    def work(campaign: Campaign) -> None:
        campaign.point(policy, load, campaign.best_tuning.get(policy, {}))

    return work


def _capacity(options: argparse.Namespace, policy: str, load: Load) -> Work:
    def work(campaign: Campaign) -> None:
        sizes: dict[str, Any] = {"most": options.most, "resolution": options.resolution}
        count = campaign.capacity(policy, load, start=load.devices, **sizes)
        row = {"policy": policy, "rate": load.rate, "acceptance": load.acceptance}
        append(options.out / "capacity.csv", row | {"capacity": count})
        said = f"{load.rate:g} tokens/s, acceptance {load.acceptance:g}"
        _say(f"{policy} at {said}: {count} devices")

    return work


def _turns(part: str, options: argparse.Namespace) -> Work:
    def work(campaign: Campaign) -> None:
        row = turns(
            campaign,
            kv_tokens=options.kv_tokens,
            vocab_size=config(options.shape)["vocab_size"],
            seed=options.seed,
        )
        append(options.out / "turns.csv", {"part": part} | row)
        _say(f"{part}: " + ", ".join(f"{name} {value}" for name, value in row.items()))

    return work


def _steps(part: str, options: argparse.Namespace, number: int) -> Work:
    def work(campaign: Campaign) -> None:
        vocab_size = config(options.shape)["vocab_size"]
        try:
            row = steps(campaign.url, number, vocab_size=vocab_size, seed=options.seed)
        except WispError as error:  # the loads are to be measured all the same
            _say(f"{part}: steps for {number} clients: {error}")
            return
        append(options.out / "steps.csv", {"part": part, "shape": options.shape} | row)
        _say(f"{part}: " + ", ".join(f"{name} {value}" for name, value in row.items()))

    return work


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    known = "\n".join(f"  {each.name}: {each.about}" for each in REGIMES)
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nRegimes:\n{known}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.set_defaults(engine="vllm", shape="32b", profile_s=20.0)
    parser.add_argument(
        "--regimes", nargs="+", metavar="NAME[:DEVICES,...]", help=f"all, or of {', '.join(NAMES)}"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--budget-s", type=float, default=400.0, help="for each part")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=[*REGIME_PARTS, *ON_REQUEST],
        help=f"default: all but {', '.join(ON_REQUEST)}; without --regimes wisp and vllm",
    )
    parser.add_argument(
        "--turns",
        action="store_true",
        help="first, how long conversations that come back wait (DIR/turns.csv), with --regimes",
    )
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="first, how long a step takes for N clients (DIR/steps.csv), with --regimes",
    )
    parser.add_argument(
        "--policies",
        nargs="+",
        choices=[*POLICIES, PUBLISHED_SLED],
        default=REGIME_POLICIES,
        help="of wisp-server, with --regimes",
    )
    parser.add_argument(
        "--acceptance", type=float, default=ACCEPTANCE, help="of a draft token, with --regimes"
    )
    parser.add_argument(
        "--coverage",
        type=float,
        nargs="*",
        default=COVERAGE,
        help="shares of rejections in which each alternative is right, with --regimes",
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[8.0, 32.0],
        help="promised tokens/s, without --regimes",
    )
    parser.add_argument(
        "--loads",
        type=int,
        nargs="+",
        default=[12, 24, 48, 96, 192],
        help="devices, without --regimes",
    )
    options = parser.parse_args()
    try:
        chosen(options.regimes or [])
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    sys.exit(main())
