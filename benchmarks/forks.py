"""What forks bring one session, in virtual time: the real engine, policy and edge's stream.

    python -m benchmarks.forks [--json] [--seconds 60] [--acceptances 0.7] [--overlap]
        [--times-ms STEP ROUND_TRIP DRAFT]

A target whose step takes the same whatever it verifies, and one device at a distance. Its drafter
is replayed: a draft is right with the given acceptance, and where it is not one of its alternatives
is with the given coverage. Each row is over plain decoding of the same target. No host time, no
jitter.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmarks.setting import describe, setting
from benchmarks.sim.fleet import Setup, simulate
from benchmarks.sim.profiles import Device, Network
from benchmarks.sim.step_times import Host, LinearTimes
from benchmarks.sim.text import BetaTexts
from benchmarks.sim.workload import Lengths, Presence, Workload
from wisp.core.slo import Slo
from wisp.scheduler.tuning import POLICIES, PolicyName, Tuning
from wisp.testing.drafter import COVERAGE
from wisp.testing.floor_and_slope import FloorAndSlope

SEED = 7  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
# Milliseconds: a step of the target, the round trip, a draft token.
TIMES_MS = (
    (26, 2, 10),
    (26, 2, 5),
    (26, 30, 5),
    (26, 80, 5),
    (50, 30, 10),
    (100, 80, 10),
    (50, 2, 1),
    (50, 2, 4),
    (50, 2, 7),
)
COVERAGES: tuple[tuple[float, ...], ...] = ((), (0.2, 0.12, 0.08), COVERAGE)
ONE_LENGTH = 400.0  # output tokens of each answer
FAST = Slo(tokens_per_s=1000.0, first_token_s=1.0)  # nobody waits for a reader


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=60.0, help="of virtual time, measured")
    parser.add_argument("--acceptances", type=float, nargs="+", default=[0.7, 0.8])
    parser.add_argument(
        "--times-ms", type=float, nargs=3, action="append", help="step, round trip, draft token"
    )
    parser.add_argument("--policy", choices=POLICIES, default="wisp")
    parser.add_argument("--overlap", action="store_true", help="launch steps behind running ones")
    options = parser.parse_args()
    about = setting(SEED, seconds=options.seconds, policy=options.policy, overlap=options.overlap)
    rows = []
    if not options.json:
        print(describe(about))
    for times_ms in options.times_ms or TIMES_MS:
        for acceptance in options.acceptances:
            rows.append(row(times_ms, acceptance, options))
            if not options.json:
                print(_described(rows[-1]), flush=True)
    if options.json:
        print(json.dumps({"setting": about, "rows": rows}))


def _described(row: dict[str, Any]) -> str:
    step_ms, round_trip_ms, draft_ms = row["times_ms"]
    gains = ", ".join(f"{share}: {gain:.2f}" for share, gain in row["gain"].items())
    return (
        f"step {step_ms} ms, round trip {round_trip_ms} ms, draft {draft_ms} ms, acceptance "
        f"{row['acceptance']:g}: {row['plain']:.1f} tokens/s plain; gain by coverage {gains}"
    )


def row(
    times_ms: tuple[float, float, float], acceptance: float, options: argparse.Namespace
) -> dict[str, Any]:
    plain = _rate(times_ms, acceptance, None, options)
    gains = {
        f"{sum(coverage):.2g}": _rate(times_ms, acceptance, coverage, options) / plain
        for coverage in COVERAGES
    }
    return {"times_ms": times_ms, "acceptance": acceptance, "plain": plain, "gain": gains}


def _rate(
    times_ms: tuple[float, float, float],
    acceptance: float,
    coverage: tuple[float, ...] | None,
    options: argparse.Namespace,
) -> float:
    """Tokens a second; without coverage the server decodes plainly."""
    step_s, round_trip_s, draft_s = (each / 1000 for each in times_ms)
    setup = Setup(
        step_times=LinearTimes(step_s, 1e-6, 0.0, 0.0, 0.0, noise=0.0),
        slo=FAST,
        devices=[Device("device", 1.0 / draft_s, 1e6, jitter=0.0, doubling_tokens=1e9)],
        networks=[Network("line", round_trip_s, 0.0, 0.0)],
        workload=Workload(Lengths(64.0, 0.0), Lengths(ONE_LENGTH, 0.0), think_s=1e-3),
        texts=BetaTexts(acceptance, coverage=coverage or ()),
        max_forks=8 if coverage else 0,
        host=Host(0.0, 0.0, 0.0, 0.0, 0.0),
        overlap=options.overlap,
        warm_up_s=5.0,
        measured_s=options.seconds,
        seed=SEED,
    )
    policy: PolicyName = "centralized" if coverage is None else options.policy
    known = FloorAndSlope(step_s, 1e-6, 0.0, 0.0)
    return simulate(policy, [Presence(0.0)], setup, Tuning(), estimator=known).tokens_per_s


if __name__ == "__main__":
    main()
