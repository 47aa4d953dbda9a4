"""How much each edge should draft: its window and threshold. Pure: no I/O, no clock."""

from __future__ import annotations

import math
from typing import NamedTuple

from wisp.core.drafts import REST, Directive
from wisp.core.edge_stats import EdgeStats
from wisp.core.session import Session

# Gain (tokens with drafts over tokens without) from which a resting edge starts. Chosen: a little
# above 1, so that a switch is worth its trouble.
_ENTER = 1.06
# Gain below which a drafting edge stops. Chosen: between 1 and `_ENTER`, so that noise switches
# nothing.
_LEAVE = 1.01
# Least time in seconds between two switches of one edge. Chosen: longer than a usual round
# trip.
_DWELL_S = 1.0
# Seconds until a resting edge is tried again, twice as many after each failure. Chosen: a probe of
# some 32 tokens is then a small part of the time.
_PROBE_S = 5.0
# Doublings at most. Chosen: 80 s, within which a network may have changed.
_MAX_DOUBLINGS = 4
# The least threshold, a cumulative acceptance. Chosen: below it drafting costs the edge more than
# it ever brings.
_MIN_THRESHOLD = 0.05
# The greatest threshold. Chosen: above it nobody would draft at all.
_MAX_THRESHOLD = 0.95
# Tokens that a session commits before its edge is judged. Chosen: as many as the statistics of an
# edge remember, about (`wisp.core.edge_stats`).
_MIN_COMMITTED = 64
# Tokens of a probe, beyond those of the first round trip. Chosen: half of that.
_PROBE_COMMITTED = 32


class Load(NamedTuple):
    """The state of the server that a directive depends on."""

    plain_s: float = 0.0  # predicted step if every session decoded plainly: what an edge must beat
    step_s: float = 0.0  # of recent steps
    marginal_cost: float = (
        0.0  # of a draft token in committed tokens: c'(n) * (tokens committed) / c(n)
    )
    per_token_s: float = 0.0  # of a step's time, for each token committed; 0 until known
    fits: bool = False  # plain decoding of everybody in each step holds what was promised
    eager: bool = True  # sessions are decoded while their drafts are under way
    scarce: bool = False  # plain decoding cannot hold what was promised, cheaper drafts may


def time_per_token_s(edge: EdgeStats, load: Load) -> float:
    """Of a session that is not decoded while it waits for drafts, by renewal over epochs.

    An epoch commits 1 / (1 - p) tokens (the last is the target's own). It takes the drafting of
    each, and once the round trip and the step that found the contradiction; all else overlaps.
    """
    p = edge.acceptance.rate
    away_s = _round_trip_s(edge) + load.step_s
    return (edge.draft_time_s or 0.0) + (1.0 - p) * away_s


def gain(edge: EdgeStats, load: Load) -> float:
    """Tokens with drafts over tokens without, in the same time of the target.

    Of `committed` tokens `from_edge` took no choice of their own, but `verified` draft tokens have
    a marginal cost; without drafts the same steps had committed the others alone. A session that is
    left waiting for its drafts must in addition be faster than without them.
    """
    own = max(1.0, edge.committed - edge.from_edge)
    found = 1.0 + (edge.from_edge - load.marginal_cost * edge.verified) / own
    if load.eager:
        return found
    return min(found, load.plain_s / max(time_per_token_s(edge, load), 1e-9))


class SpeculationController:
    """Draft-ahead while it pays; else rest, and probe now and then: text and network change.

    Two thresholds and a dwell time keep noise from switching an edge on and off.
    """

    def __init__(self, first: Directive, block_tokens: int, max_window: int) -> None:
        self._first = first
        self._block_tokens = block_tokens
        self._max_window = max_window

    def directive(self, session: Session, load: Load) -> Directive:
        """At `session.committed_s`; keeps the switching state in the session's edge statistics."""
        edge, now = session.edge_stats, session.committed_s
        if not session.has_edge or self._first.window == 0:
            return REST
        if edge.num_committed < _MIN_COMMITTED and edge.probed_from is None:
            return self._first  # too little is known yet
        since_s = edge.switched_s
        if since_s is None:
            since_s = now - _DWELL_S
            edge.switched(since_s)
        if edge.probed_from is not None:
            return self._probing(edge, load, now)
        elapsed_s = now - since_s
        drafting = session.directive.window > 0
        if elapsed_s < _DWELL_S:
            return self._drafting(edge, load) if drafting else REST
        if gain(edge, load) >= (_LEAVE if drafting else _ENTER):
            if not drafting:
                edge.switched(now)
            return self._drafting(edge, load)
        if drafting:
            edge.switched(now)
        elif elapsed_s >= _PROBE_S * 2.0 ** min(edge.num_failed_probes, _MAX_DOUBLINGS):
            edge.probe_begun(now)
            return self._drafting(edge, load)
        return REST

    def window(self, edge: EdgeStats, load: Load) -> int:
        """Draft-ahead: a block, and what is drafted while its verdict is under way."""
        away_s = _round_trip_s(edge) + load.step_s
        ahead = away_s / edge.draft_time_s if edge.draft_time_s else float(self._first.window)
        return max(1, min(self._max_window, self._block_tokens + math.ceil(ahead)))

    def _drafting(self, edge: EdgeStats, load: Load) -> Directive:
        threshold = min(_MAX_THRESHOLD, max(_MIN_THRESHOLD, load.marginal_cost))
        return Directive(self.window(edge, load), threshold)

    def _probing(self, edge: EdgeStats, load: Load, now: float) -> Directive:
        """Draft for a while, and judge by that alone."""
        assert edge.probed_from is not None
        on_the_way = _round_trip_s(edge) / max(load.step_s, 1e-9)
        if edge.num_committed - edge.probed_from < _PROBE_COMMITTED + on_the_way:
            return self._drafting(edge, load)
        paid = gain(edge, load) >= _ENTER
        edge.probe_ended(now, paid=paid)
        return self._drafting(edge, load) if paid else REST


def _round_trip_s(edge: EdgeStats) -> float:
    return 0.0 if edge.round_trip_s is None else edge.round_trip_s
