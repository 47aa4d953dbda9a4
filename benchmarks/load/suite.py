"""The load test of a GPU: every policy on one server, then plain vLLM, the most important first.

    python -m benchmarks.load.suite --shape 32b --kv-tokens 61035 --out DIR --budget-s 400

Each part gets the budget, its server's start included; a load that would not end in time is not
begun. Rows go to DIR/wisp.csv and DIR/vllm.csv as they are made, capacities to DIR/capacity.csv.
`--parts wisp` and `--parts vllm` are for two GPUs side by side.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.load.campaign import PLAIN, Campaign, OutOfTime, append
from benchmarks.load.running import add_options, running
from benchmarks.setting import setting
from wisp.errors import WispError

POLICIES = ("wisp", "centralized", "wisp-paper", "sled")
ACCEPTANCE, OTHER_ACCEPTANCES = 0.7, (0.5, 0.85)
TUNED_AT = 48  # devices
Work = Callable[[Campaign], None]


def main() -> int:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    about = setting(options.seed, arguments=sys.argv[1:])
    (options.out / "setting.json").write_text(json.dumps(about, indent=1) + "\n")
    codes = [run_part(part, options) for part in options.parts]
    return max(codes)


def run_part(part: str, options: argparse.Namespace) -> int:
    end_s = time.monotonic() + options.budget_s
    folder = options.out / f"{part}-server"
    plain = part == PLAIN
    path = options.out / f"{part}.csv"
    try:
        with running(options, folder, plain=plain, csv=path, end_s=end_s) as campaign:
            _say(f"{part}: the server is there, {end_s - time.monotonic():.0f} s are left")
            for work in plain_works(options) if plain else wisp_works(options):
                work(campaign)
        _say(f"{part}: done")
    except OutOfTime:
        _say(f"{part}: the budget is spent")
    except WispError as error:
        _say(f"{part}: {error}")
        return 1
    finally:
        shutil.rmtree(folder / "target", ignore_errors=True)
    return 0


def wisp_works(options: argparse.Namespace) -> Iterator[Work]:
    """Each load under every policy before the next load; then what lies between the loads."""
    yield _tune("sled", options.rates[0])
    for rate in options.rates:
        for devices in options.loads:
            for policy in POLICIES:
                yield _point(policy, rate, devices)
        for policy in POLICIES:
            yield _capacity(options, policy, rate, ACCEPTANCE)
    for acceptance in OTHER_ACCEPTANCES:
        yield _capacity(options, "wisp", options.rates[0], acceptance)


def plain_works(options: argparse.Namespace) -> Iterator[Work]:
    for rate in options.rates:
        for devices in options.loads:
            yield _point(PLAIN, rate, devices)
        yield _capacity(options, PLAIN, rate, ACCEPTANCE)


def _tune(policy: str, rate: float) -> Work:
    def work(campaign: Campaign) -> None:
        campaign.best_point(policy, rate, ACCEPTANCE, TUNED_AT)

    return work


def _point(policy: str, rate: float, devices: int) -> Work:
    def work(campaign: Campaign) -> None:
        tuning = campaign.best_tuning.get(policy, {})
        campaign.point(policy, rate, ACCEPTANCE, devices, tuning)

    return work


def _capacity(options: argparse.Namespace, policy: str, rate: float, acceptance: float) -> Work:
    def work(campaign: Campaign) -> None:
        sizes: dict[str, Any] = {"most": options.most, "resolution": options.resolution}
        count = campaign.capacity(policy, rate, acceptance, start=options.loads[0], **sizes)
        row = {"policy": policy, "rate": rate, "acceptance": acceptance, "capacity": count}
        append(options.out / "capacity.csv", row)
        _say(f"{policy} at {rate:g} tokens/s, acceptance {acceptance:g}: {count} devices")

    return work


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.set_defaults(engine="vllm", shape="32b", profile_s=20.0)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--budget-s", type=float, default=400.0, help="for each part")
    parser.add_argument("--parts", nargs="+", choices=["wisp", PLAIN], default=["wisp", PLAIN])
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[8.0, 32.0], help="promised tokens/s"
    )
    parser.add_argument("--loads", type=int, nargs="+", default=[12, 24, 48, 96, 192])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
