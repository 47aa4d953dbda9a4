"""What users got, judged over a window of a load that goes on.

The promise is that of the simulator (`benchmarks.sim.fleet`): the first token in time, and from
there on at least the promised rate on average. A session that was there before the window is judged
as though it had been opened when the load last changed, or when the window began if that is better
for it: so neither what it got before nor what the change itself cost counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from wisp.core.slo import Attainment, Slo

_MIN_S = 1.0  # less of a session than this in the window tells nothing


@dataclass
class Stats:
    """Of one window; those of several processes are added up."""

    num_judged: int = 0
    num_attained: int = 0
    num_tokens: int = 0
    num_in_time: int = 0
    num_rounds: int = 0  # messages with tokens
    num_refused: int = 0
    num_errors: int = 0
    num_wrong: int = 0  # tokens that the target should not have chosen
    num_examined: int = 0  # drafts, up to the first rejected one of each round
    num_accepted: int = 0
    first_token_s: list[float] = field(default_factory=list)  # of sessions opened in the window
    turn_first_token_s: list[float] = field(default_factory=list)  # of these, of turns that return
    gaps_s: list[float] = field(default_factory=list)  # between two messages of a session
    late_s: list[float] = field(default_factory=list)  # by which this process woke up too late

    def plus(self, other: Stats) -> Stats:
        names = [each.name for each in fields(Stats)]
        return Stats(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def attainment(self) -> float:
        return self.num_attained / self.num_judged if self.num_judged else 1.0

    def between_tokens_s(self) -> list[float]:
        """Times between consecutive tokens; those of one message come together."""
        return self.gaps_s + [0.0] * (self.num_tokens - len(self.gaps_s))


class Watched:
    """One session, as its user sees it."""

    def __init__(self, slo: Slo, now: float, *, returns: bool = False) -> None:
        """`returns`: it goes on with a conversation."""
        self.slo = slo
        self.returns = returns
        self.opened_s = now
        self.ended_s: float | None = None
        self.last_s: float | None = None  # when tokens came last
        self.change = self.window = self._opened(now)

    def load_changed(self, now: float) -> None:
        self.change = self.window = self._opened(now)

    def window_begins(self, now: float) -> None:
        self.window = self._opened(now)

    def attained(self, start_s: float, now: float) -> bool | None:
        """Was the promise attained? None: too early to say, or too little was seen."""
        until_s = now if self.ended_s is None else self.ended_s
        if self.opened_s < start_s and until_s - start_s < _MIN_S:
            return None
        verdicts = [_met(each, until_s) for each in (self.change, self.window)]
        return None if None in verdicts else any(verdicts)

    def _opened(self, now: float) -> tuple[Attainment, float]:
        return Attainment(self.slo, now), now


def _met(watched: tuple[Attainment, float], until_s: float) -> bool | None:
    attainment, opened_s = watched
    if attainment.first_token_s is None:
        return False if until_s - opened_s > attainment.slo.first_token_s else None
    return attainment.first_token_attained and attainment.rate_attained


class Tally:
    """All sessions of a process. Times are arguments."""

    def __init__(self) -> None:
        self._live: set[Watched] = set()
        self._seen: list[Watched] = []
        self._start_s = 0.0
        self.stats = Stats()

    def opened(self, slo: Slo, now: float, *, returns: bool = False) -> Watched:
        watched = Watched(slo, now, returns=returns)
        self._live.add(watched)
        self._seen.append(watched)
        return watched

    def tokens(self, watched: Watched, count: int, now: float) -> None:
        if watched.last_s is None:
            if watched.opened_s >= self._start_s:
                self.stats.first_token_s.append(now - watched.opened_s)
                if watched.returns:
                    self.stats.turn_first_token_s.append(now - watched.opened_s)
        else:
            self.stats.gaps_s.append(now - watched.last_s)
        watched.last_s = now
        if watched.change is not watched.window:
            watched.change[0].add(count, now)
        self.stats.num_in_time += watched.window[0].add(count, now)
        self.stats.num_tokens += count
        self.stats.num_rounds += 1

    def ended(self, watched: Watched, now: float) -> None:
        watched.ended_s = now
        self._live.discard(watched)

    def load_changed(self, now: float) -> None:
        for watched in self._live:
            watched.load_changed(now)

    def window_begins(self, now: float) -> None:
        for watched in self._live:
            watched.window_begins(now)
        self._seen = list(self._live)
        self._start_s = now
        self.stats = Stats()

    def window_ends(self, now: float) -> Stats:
        attained = [each.attained(self._start_s, now) for each in self._seen]
        self.stats.num_attained = attained.count(True)
        self.stats.num_judged = self.stats.num_attained + attained.count(False)
        return self.stats


def percentile_ms(times_s: list[float], share: float) -> float | None:
    return round(1000 * float(np.quantile(times_s, share)), 1) if times_s else None
