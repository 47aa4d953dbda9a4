"""Loads one after another on one simulated server, as the load test has them on a real one.

The same users ask the same in the same order, windows begin and end at the same times behind each
change, and the same rules say what was attained (`benchmarks.load`): a row here and one measured
there are of the same work.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from random import Random
from typing import NamedTuple

from benchmarks.load import score
from benchmarks.load.campaign import Times
from benchmarks.sim import edge
from benchmarks.sim.edge import Result
from benchmarks.sim.fleet import Report, Setup, simulate
from benchmarks.sim.workload import Presence
from wisp.scheduler.tuning import PolicyName, Tuning

_TIMES = Times()


class Window(NamedTuple):
    """Of one load: what users got in so many seconds."""

    devices: int
    measure_s: float
    stats: score.Stats

    @property
    def attainment(self) -> float:
        return self.stats.attainment

    @property
    def goodput(self) -> float:
        """Tokens a second."""
        return self.stats.num_in_time / self.measure_s


class Watching(edge.Tally):
    """The load test's own tally, fed by simulated devices."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.score = score.Tally()
        self._watched: dict[int, score.Watched] = {}  # by the identity of what is kept beside it

    def opened(self, session: Result) -> None:
        super().opened(session)
        self._watched[id(session)] = self.score.opened(session.attainment.slo, session.opened_s)

    def tokens(self, session: Result, num_tokens: int, num_in_time: int, now: float) -> None:
        super().tokens(session, num_tokens, num_in_time, now)
        self.score.tokens(self._watched[id(session)], num_tokens, now)

    def ended(self, session: Result, now: float) -> None:
        self.score.ended(self._watched[id(session)], now)


def in_turn(
    policy: PolicyName,
    loads: Sequence[int],
    setup: Setup,
    tuning: Tuning,
    times: Times = _TIMES,
) -> tuple[list[Window], Report]:
    """A window of each load, and what the whole run was. `loads`: rising numbers of devices."""
    tally, found = Watching(), list[Window]()
    presences, moments, now = list[Presence](), [], 0.0

    def begin(at_s: float) -> None:
        tally.score.window_begins(at_s)

    def end(devices: int, at_s: float) -> None:
        stats = deepcopy(tally.score.window_ends(at_s))  # the tally goes on counting in its own
        found.append(Window(devices, times.measure_s, stats))

    for devices in loads:
        spread_s = 0.5 * times.warm_s + times.join_s * (devices - len(presences))
        for number in range(len(presences), devices):
            chance = Random(f"arrivals {setup.seed} edges {number}")
            presences.append(Presence(now + chance.uniform(0.0, spread_s)))
        begin_s = now + spread_s + 0.5 * times.warm_s
        end_s = begin_s + times.measure_s
        moments += [
            (now, partial(tally.score.load_changed, now)),
            (begin_s, partial(begin, begin_s)),
            (end_s, partial(end, devices, end_s)),
        ]
        now = end_s
    setup = replace(setup, met_halfway=True, warm_up_s=0.0, measured_s=now)
    report = simulate(policy, presences, setup, tuning, tally=tally, moments=moments)
    return found, report
