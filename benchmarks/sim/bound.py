"""What is possible in a regime at all: tokens a second that no policy can write more of.

Let all steps take T. Two things limit what a fleet gets, and the bound is the best of all T:

    bound = max over T of min(sum over devices of e(r(T)), s(T))

**r(T), the event model of one session** that may be in every step. An epoch's drafts reach the
server one every d seconds, the first half a round trip and d after the edge began. A step takes
those that are here, commits the right ones of them and the target's own choice. If that choice
contradicts the stream the next epoch begins half a round trip after the step's end; if it
overtakes the drafter, the drafter goes on behind it. A session may also wait until w drafts are
here: r is the best of some w. e(r) = output / (first token + output / r + think): a device asks
again.

**s(T), the server** with infinitely fast drafters, whose acceptances are known as well as the
edges' predictors know them: m sessions in a step, each with the drafts whose cumulative acceptance
is above a threshold, D of them, which commit E tokens; and the prompts that come with so many
tokens. s(T) is the highest m E / time among the steps that take at most T, over m and the
threshold; the KV memory bounds m.

Both err upwards: seats of several sizes, waiting for one another, recomputed prompts, predictors
that learn and the jitter of networks are left out.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.sim.fleet import Setup
from benchmarks.sim.text import Texts
from wisp.estimator.shape import StepShape

Floats = NDArray[np.float64]

_SEED = 5  # of the texts that the bound is drawn from; chosen: any number does
_NUM_TEXTS, _LENGTH = 100, 400  # of these; chosen: enough for 1 %
_MAX_DRAFTS = 16
_THRESHOLDS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02, 0.0)
_WAITS = (0, 3, 6)  # drafts that a session may wait for


def bound(setup: Setup, num_devices: int) -> float:
    """Tokens a second."""
    steps = _steps(setup, num_devices)
    times_s = np.geomspace(min(time_s for time_s, _ in steps), max(t for t, _ in steps), 10)
    best = 0.0
    for time_s in reversed(times_s.tolist()):
        server = max((rate for taken_s, rate in steps if taken_s <= time_s * 1.001), default=0.0)
        if server > best:  # else no demand makes it more, which takes long to find for short steps
            best = max(best, min(server, _demand(setup, num_devices, time_s)))
    return best


def _steps(setup: Setup, num_devices: int) -> list[tuple[float, float]]:
    """(time, committed tokens a second) of each kind of step."""
    prompt, output = setup.workload.prompt.mean, setup.workload.output.mean
    length = prompt + 0.5 * output
    most = max(1, min(num_devices, int(setup.kv_tokens / length)))
    found = []
    for num_seats in sorted({round(m) for m in np.geomspace(1, most, 24)}):
        for num_drafts, committed in _worth(setup.texts):
            num_committed = num_seats * committed
            num_prefilled = num_committed * prompt / output
            shape = StepShape(
                round(num_seats * (1.0 + num_drafts) + num_prefilled),
                round(num_seats * length),
                num_prefilled * prompt,
                num_seats,
            )
            time_s = setup.step_times.time_s(shape)
            found.append((time_s, num_committed / time_s))
    return found


@lru_cache
def _worth(texts: Texts) -> tuple[tuple[float, float], ...]:
    """(drafts verified, tokens committed) of a seat, by the threshold of cumulative acceptance."""
    drafts, accepted = [], []
    for number in range(_NUM_TEXTS):
        text = texts.make(_LENGTH, (_SEED, number))
        drafts.append(_windows(np.array(text.confidence)))
        accepted.append(_windows(np.array(text.right, dtype=np.float64)))
    likely, right = np.concatenate(drafts), np.concatenate(accepted)
    return tuple(
        (float((likely > at).sum(1).mean()), 1.0 + float((right * (likely > at)).sum(1).mean()))
        for at in _THRESHOLDS
    )


def _windows(values: Floats) -> Floats:
    """[positions, drafts]: the cumulative products from each position on."""
    windows = np.lib.stride_tricks.sliding_window_view(values, _MAX_DRAFTS)
    found: Floats = np.cumprod(windows, axis=1, dtype=np.float64)
    return found


def _demand(setup: Setup, num_devices: int, step_s: float) -> float:
    """What so many devices write if each is in every step, in turns with thinking."""
    workload = setup.workload
    kinds = len(setup.devices) * len(setup.networks)
    length = round(workload.prompt.mean + 0.5 * workload.output.mean)
    total = 0.0
    for number in range(min(num_devices, kinds)):
        device = setup.devices[number % len(setup.devices)]
        network = setup.networks[number // len(setup.devices) % len(setup.networks)]
        away_s = network.round_trip_s + 2.0 * network.jitter_s
        rate = max(
            session_rate(step_s, device.draft_s(length), away_s, setup.texts, wait)
            for wait in _WAITS
        )
        cycle_s = away_s + step_s + workload.output.mean / rate + workload.think_s
        share = len(range(number, num_devices, kinds))
        total += share * workload.output.mean / cycle_s
    return total


@lru_cache(maxsize=4096)
def session_rate(
    step_s: float, draft_s: float, round_trip_s: float, texts: Texts, wait: int = 0
) -> float:
    """Tokens a second of one session that may be in every step; see the event model above."""
    rates = [
        _one(step_s, draft_s, 0.5 * round_trip_s, texts.make(_LENGTH, (_SEED, number)).right, wait)
        for number in range(6)
    ]
    return float(np.mean(rates))


def _one(step_s: float, draft_s: float, way_s: float, right: list[bool], wait: int) -> float:
    wrong = [len(right)] * (len(right) + 1)  # the first wrong position from each on
    for position in range(len(right) - 1, -1, -1):
        wrong[position] = wrong[position + 1] if right[position] else position
    now = 0.0
    committed = base = 0
    begun_s = 0.0  # when the edge began with `base`
    known: list[tuple[float, int]] = []  # verdicts on their way: when the edge has them
    while committed < len(right):
        while known and known[0][0] <= now:
            at_s, end = known.pop(0)
            if base + int((at_s - begun_s) / draft_s) < end:  # overtaken: it goes on behind
                base, begun_s = end, at_s
        here = base + max(0, int((now - way_s - begun_s) / draft_s))
        first_wrong = wrong[min(base, len(right))]
        ready = max(0, min(here - committed, _MAX_DRAFTS))
        if ready < wait and here <= first_wrong + wait:
            now += max(1e-4, min(draft_s, step_s))
            continue
        num_accepted = max(0, min(committed + ready, first_wrong) - committed)
        committed += num_accepted + 1
        now += step_s
        drafted = base + int((now + way_s - begun_s) / draft_s)
        if committed > first_wrong and drafted > first_wrong:
            base, begun_s, known = committed, now + way_s, []
        else:
            known.append((now + way_s, committed))
    return committed / now
