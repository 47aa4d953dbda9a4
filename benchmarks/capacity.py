"""What a simulated fleet can take: capacity by bisection, loads one by one, and bursts."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from benchmarks import search
from benchmarks.load.texts import SessionTexts
from benchmarks.search import ATTAINED
from benchmarks.sim.fleet import Report, Setup, learn, simulate
from benchmarks.sim.regimes import LAWS
from benchmarks.sim.step_times import Host, StepTimes
from benchmarks.sim.workload import Presence, bursty
from wisp.core.slo import Slo
from wisp.estimator.base import Estimator
from wisp.scheduler.tuning import PolicyName, Tuning

FIRST_TOKEN_S = 2.0  # the default of wisp-server
_GLANCE_S = 15.0  # measured to choose a tuning; the one chosen is then measured in full
STEP_TIMES: dict[str, StepTimes] = {
    "paper": LAWS["paper"],
    "measured": LAWS["a100"],
    "h200": LAWS["h200"],
}

# What each policy may choose from; it gets the best of these at every load and class. A batch of
# `sled` is taken when it is full or its first member has waited, and prompts are prefilled in
# chunks beside it: a large one with a short wait is continuous batching in all but name.
TUNINGS: dict[PolicyName, tuple[Tuning, ...]] = {
    "wisp": (Tuning(max_step_tokens=512),),
    "wisp-paper": (Tuning(max_step_tokens=512), Tuning(window=4)),
    "fcfs": (Tuning(max_step_tokens=512), Tuning(window=4)),
    "centralized": (Tuning(), Tuning(max_step_tokens=512)),
    "sled": tuple(
        Tuning(block_tokens=length, batch_size=size, batch_wait_s=0.02)
        for size in (32, 8)
        for length in (2, 4, 6)
    ),
}

_GLANCED_TUNINGS: dict[PolicyName, int] = {"sled": 2}  # tried in a quick run; else the first


def tunings(policy: PolicyName, *, quick: bool) -> tuple[Tuning, ...]:
    found = TUNINGS[policy]
    return found[: _GLANCED_TUNINGS.get(policy, 1)] if quick else found


def setup_of(
    step_times: StepTimes, rate: float, acceptance: float, seconds: float, seed: int
) -> Setup:
    return Setup(
        step_times=step_times,
        slo=Slo(tokens_per_s=rate, first_token_s=FIRST_TOKEN_S, name=f"{rate:g}"),
        texts=SessionTexts(acceptance),
        warm_up_s=max(20.0, 0.5 * seconds),
        measured_s=seconds,
        seed=seed,
    )


class Point(NamedTuple):
    """What one simulation says; see `benchmarks.sim.fleet.Report`."""

    attainment: float
    goodput: float
    tokens_per_s: float
    tokens_per_step: float
    seats_per_step: float
    first_token_attained: float
    acceptance: float
    blocking_ms: float  # wasted drafting for each token, see wisp.edge.waste
    overlapped_ms: float


def point(
    policy: PolicyName, fleet: int | Sequence[Presence], setup: Setup, tuning: Tuning
) -> Point:
    report = report_of(policy, fleet, setup, tuning)
    attained = [each.attainment.first_token_attained for each in report.sessions]
    return Point(
        report.attainment,
        report.goodput,
        report.tokens_per_s,
        report.tokens_per_step,
        report.seats_per_step,
        sum(attained) / max(1, len(attained)),
        report.acceptance,
        *(1e3 * time_s for time_s in report.waste_per_token),
    )


def report_of(
    policy: PolicyName,
    fleet: int | Sequence[Presence],
    setup: Setup,
    tuning: Tuning,
    estimator: Estimator | None = None,
) -> Report:
    """One simulation; with an estimator fresh from the profile, if none is given."""
    gc.disable()  # a run makes many small objects, and no cycles that grow
    try:
        max_step_tokens = tuning.max_step_tokens
        estimator = estimator or pickle.loads(
            _learned(setup.step_times, setup.host, setup.overlap, max_step_tokens)
        )
        return simulate(policy, fleet, setup, tuning, estimator=estimator)
    finally:
        gc.enable()


@lru_cache
def _learned(step_times: StepTimes, host: Host, overlap: bool, max_step_tokens: int) -> bytes:
    """An estimator fresh from the profile; it learns on in each run, so each gets its own."""
    setup = Setup(step_times=step_times, host=host, overlap=overlap)
    return pickle.dumps(learn(setup, Tuning(max_step_tokens=max_step_tokens)))


def best_point(
    policy: PolicyName, fleet: int, setup: Setup, quick: bool = False
) -> tuple[Point, Tuning]:
    """Of the tuning with the highest goodput at this load, by a shorter run."""
    first, *others = tunings(policy, quick=quick)
    if others:
        glance = replace(setup, measured_s=min(_GLANCE_S, setup.measured_s))
        first = max((first, *others), key=lambda each: point(policy, fleet, glance, each).goodput)
    return point(policy, fleet, setup, first), first


def best_capacity(
    policy: PolicyName, setup: Setup, quick: bool = False, max_count: int = 256
) -> tuple[int, Tuning]:
    """The most devices whose promises are attained, and the tuning that does it; to within 2 %.

    The same devices ask for the same whatever the load and the policy (common random numbers).
    """

    def holds(tuning: Tuning, count: int) -> bool:
        return point(policy, count, setup, tuning).attainment >= ATTAINED

    return search.best_capacity(
        tunings(policy, quick=quick),
        holds,
        start=24,
        max_count=max_count,
        resolution=0.02,
        growth=1.5,
    )


class Burst(NamedTuple):
    """Devices: `base` all the time, `peak` for half a minute."""

    base: int
    peak: int
    start_s: float = 30.0
    length_s: float = 30.0
    ramp_s: float = 2.0


def burst_point(
    policy: PolicyName, burst: Burst, setup: Setup, quick: bool = False
) -> tuple[Point, Tuning]:
    """Of the sessions opened from the burst's start to the end of the run, the best tuning's."""
    setup = setup.from_to(burst.start_s, burst.start_s + 2.0 * burst.length_s)
    fleet = bursty(*burst, seed=setup.seed)
    tried = tunings(policy, quick=quick)
    found = [(point(policy, fleet, setup, tuning), tuning) for tuning in tried]
    return max(found, key=lambda pair: pair[0].attainment)


def described(tuning: Tuning) -> str:
    default = Tuning()
    names = Tuning.__struct_fields__
    differ = [name for name in names if getattr(tuning, name) != getattr(default, name)]
    return ", ".join(f"{name} {getattr(tuning, name):g}" for name in differ)
