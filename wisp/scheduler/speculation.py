"""How much each edge should draft: its window and threshold. Pure: no I/O, no clock."""

from __future__ import annotations

import math
from typing import NamedTuple

from wisp.core.drafts import REST, Directive
from wisp.core.edge_stats import EdgeStats
from wisp.core.session import Session

# The least that drafting must gain, as a share, and the least cumulative acceptance of a draft.
# Chosen: what gains less than a fiftieth is not worth a battery.
LEAST = 0.02
# Seconds that an edge rests when its drafts gained less, twice as many after each time. Chosen:
# long against a trial, which takes as many tokens as its statistics remember.
REST_S = 5.0


class Load(NamedTuple):
    """The state of the server that decisions depend on, beside its sessions."""

    step_s: float = 0.0  # of recent steps; 0 until known
    marginal_cost: float = 0.0  # of a draft token in committed tokens
    tokens_per_s: float = 0.0  # committed, over some more steps


def gain(edge: EdgeStats, load: Load) -> float:
    """Tokens for nothing, as a share of the target's own: accepted drafts less what all drafts
    that it verified took from others. By what was counted, whatever the edge says of itself."""
    own = max(1.0, edge.committed - edge.from_edge)
    return (edge.from_edge - load.marginal_cost * edge.verified) / own


class SpeculationController:
    """Draft-ahead while it pays; else rest, and try again later: text, network and load change."""

    def __init__(self, first: Directive, block_tokens: int, max_window: int) -> None:
        self._first = first
        self._block_tokens = block_tokens
        self._max_window = max_window

    def directive(self, session: Session, load: Load) -> Directive:
        """At `session.committed_s`; keeps since when it rests in the session's edge statistics."""
        edge, now = session.edge_stats, session.committed_s
        if not session.has_edge or self._first.window == 0:
            return REST
        if edge.switched_s is None or session.directive.window > 0:  # it is new, or it drafts
            if not edge.on_trial and gain(edge, load) < LEAST:
                edge.rested(now)
                return REST
        elif now - edge.switched_s < REST_S * 2.0 ** (edge.num_rests - 1):
            return REST
        else:
            edge.tried(now)
        return Directive(self.window(edge, load), min(1.0, max(LEAST, load.marginal_cost)))

    def window(self, edge: EdgeStats, load: Load) -> int:
        """A block, and what is drafted while its verdict is under way."""
        away_s = (edge.round_trip_s or 0.0) + load.step_s
        ahead = away_s / edge.draft_time_s if edge.draft_time_s else float(self._first.window)
        return max(1, min(self._max_window, self._block_tokens + math.ceil(ahead)))
