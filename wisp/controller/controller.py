"""How much each edge should draft: its window and survival threshold. Pure: no I/O, no clock."""

from __future__ import annotations

import math
from typing import NamedTuple

from wisp.controller.calibration import forget, observed_acceptance
from wisp.core import REST, Directive, EdgeHistory, Session

_ENTER, _LEAVE = 1.15, 0.87  # gain at which a resting edge starts, and a drafting one stops
_DWELL_S = 1.0  # least time between two switches
_PROBE_S = 5.0  # a resting edge is tried again after so long; twice as long after each failure
_MOST_DOUBLINGS = 4
_LEAST_THRESHOLD = 0.05  # below it drafting costs the edge more than it ever brings
_UNKNOWN_ROUND_TRIP_S = 0.0  # the benefit of the doubt, until the first contradiction tells
_LEAST_EXAMINED = 16  # draft tokens before an edge is judged


class Load(NamedTuple):
    """The state of the server that a directive depends on."""

    plain_s: float = 0.0  # predicted step if every session decoded plainly: what an edge must beat
    step_s: float = 0.0  # of recent steps
    price: float = 0.0  # of a draft token in committed tokens: c'(n) * (tokens committed) / c(n)


def time_per_token_s(history: EdgeHistory, load: Load) -> float:
    """With a window that covers the round trip, by renewal over epochs.

    An epoch commits 1 / (1 - p) tokens (the last is the target's own). It takes the drafting of
    each, and once the round trip and the step that found the contradiction; all else overlaps.
    """
    p = observed_acceptance(history)
    draft_time_s = history.draft_time_s or 0.0
    return draft_time_s + (1.0 - p) * (_round_trip_s(history) + load.step_s)


def gain(history: EdgeHistory, load: Load) -> float:
    """Speed with drafts over speed without; 0 when a first draft token costs more than it brings.

    A draft token's price is compared with P(it is accepted): both are in committed tokens.
    """
    speed = load.plain_s / max(time_per_token_s(history, load), 1e-9)
    worth = observed_acceptance(history) / max(load.price, 1e-9)
    return min(speed, worth)


class SpeculationController:
    """Draft-ahead while it pays; else rest, and probe now and then, as the edge may have improved.

    Two thresholds and a dwell time keep noise from switching an edge on and off.
    """

    def __init__(self, first: Directive, block_tokens: int, max_window: int) -> None:
        self._first = first
        self._block_tokens = block_tokens
        self._max_window = max_window

    def directive(self, session: Session, load: Load) -> Directive:
        """At `session.committed_s`; keeps the session's switching state in its history."""
        history, now = session.history, session.committed_s
        if not session.has_edge or self._first.window == 0:
            return REST
        if history.num_examined < _LEAST_EXAMINED and history.probed_from is None:
            return self._first  # too little is known yet
        if history.switched_s is None:
            history.switched_s = now - _DWELL_S
        elapsed_s = now - history.switched_s
        if history.probed_from is not None:
            return self._probing(history, load, now, elapsed_s)
        drafting = session.directive.window > 0
        if elapsed_s < _DWELL_S:
            return self._drafting(history, load) if drafting else REST
        value = gain(history, load)
        if value >= (_LEAVE if drafting else _ENTER):
            if not drafting:
                history.switched_s = now
            return self._drafting(history, load)
        if drafting:
            history.switched_s = now
        elif elapsed_s >= _PROBE_S * 2.0 ** min(history.num_failed_probes, _MOST_DOUBLINGS):
            return self._probe(history, now)
        return REST

    def window(self, history: EdgeHistory, load: Load) -> int:
        """Draft-ahead: a block, and what is drafted while its verdict is under way."""
        away_s = _round_trip_s(history) + load.step_s
        ahead = away_s / history.draft_time_s if history.draft_time_s else float(self._first.window)
        return max(1, min(self._max_window, self._block_tokens + math.ceil(ahead)))

    def _drafting(self, history: EdgeHistory, load: Load) -> Directive:
        threshold = min(0.95, max(_LEAST_THRESHOLD, load.price))
        return Directive(self.window(history, load), threshold)

    def _probe(self, history: EdgeHistory, now: float) -> Directive:
        """One block's worth of drafts, judged almost by itself."""
        forget(history)
        history.switched_s = now
        history.probed_from = history.num_examined
        return Directive(min(self._block_tokens, self._max_window), _LEAST_THRESHOLD)

    def _probing(self, history: EdgeHistory, load: Load, now: float, elapsed_s: float) -> Directive:
        assert history.probed_from is not None
        num_seen = history.num_examined - history.probed_from
        if num_seen >= self._block_tokens and gain(history, load) >= _ENTER:
            history.num_failed_probes = 0
        elif num_seen < 2 * self._block_tokens and elapsed_s < _DWELL_S:
            return Directive(min(self._block_tokens, self._max_window), _LEAST_THRESHOLD)
        else:
            history.num_failed_probes += 1
            history.probed_from, history.switched_s = None, now
            return REST
        history.probed_from, history.switched_s = None, now
        return self._drafting(history, load)


def drafts_expected_s(session: Session, block_tokens: int) -> float | None:
    """When the next block should come, by the edge's speed and distance; None: unknown."""
    history = session.history
    if history.draft_time_s is None:
        return None
    drafting_s = block_tokens * history.draft_time_s
    if history.contradicted_s is not None:
        return history.contradicted_s + _round_trip_s(history) + drafting_s
    return session.block_arrived_s + drafting_s


def _round_trip_s(history: EdgeHistory) -> float:
    return _UNKNOWN_ROUND_TRIP_S if history.round_trip_s is None else history.round_trip_s
