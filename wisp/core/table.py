"""The sessions as a table: one row for each, so that a decision over a thousand takes no loops.

A session packs its row when it is first looked at behind an event: a decision reads anew only those
to which something has happened.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wisp.core.acceptance import cumulative_acceptance, num_accepted

if TYPE_CHECKING:
    from wisp.core.session import Session

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Of the drafts that a step may verify, of the edge, and from `length` on in tokens.
ROW = np.dtype(
    [
        ("period_s", "f8"),  # of the promised rate
        ("aimed_s", "f8"),
        ("committed_s", "f8"),
        ("calibration", "f8"),  # of the drafts
        ("draft_time_s", "f8"),  # of the edge, as the next three; 0: unknown
        ("round_trip_s", "f8"),  # 0: unknown
        ("acceptance", "f8"),
        ("steps", "f8"),
        ("from_steps", "f8"),
        ("own_rate", "f8"),  # of own drafts, if any may be asked for; else 0
        ("arrived_s", "f8"),  # when the last of its drafts that are here came; -inf: none is here
        ("drafts_on", "i8"),  # the edge is asked to draft, and does not wait for a verdict
        ("length", "i8"),  # of the committed text
        ("end", "i8"),
        ("num_computed", "i8"),
        ("num_pending", "i8"),
        ("num_drafts", "i8"),  # those that steps in flight verify included
        ("num_also", "i8"),  # places where alternatives bring something
    ]
)
_PACK = struct.Struct("11d7q").pack


def row_of(session: Session, num_also: int = 0) -> bytes:
    """One `ROW`."""
    edge, stream, drafts = session.edge_stats, session.stream, session.drafts
    acceptance = edge.acceptance
    return _PACK(
        1.0 / session.slo.tokens_per_s,
        session.aimed_s,
        session.committed_s,
        1.0 if session.num_own else drafts.calibration,
        edge.draft_time_s or 0.0,
        edge.round_trip_s or 0.0,
        acceptance.accepted / acceptance.examined,
        edge.steps,
        edge.from_steps,
        session.own_rate,
        stream.arrived_s if stream.tokens else -math.inf,
        session.directive.window > 0 and not stream.complete,
        len(session.tokens),
        session.end,
        session.num_computed,
        session.num_pending,
        session.num_pending + session.num_own if session.num_own else len(drafts.acceptance),
        num_also,
    )


# Steps that an edge's speed counts for, beside those that were counted. Chosen: a few of the twenty
# that are remembered.
_PRIOR_STEPS = 2.0


class Table:
    """One array for each fact, [sessions] each, of the rows that the sessions keep."""

    def __init__(self, sessions: Collection[Session]) -> None:
        self.sessions = list(sessions)
        packed = [session.row or session.packed() for session in self.sessions]
        rows = self._rows = np.frombuffer(b"".join(packed), ROW)
        self.period_s: Floats = rows["period_s"]
        self.pending: Ints = rows["num_pending"]
        # Of the token behind the one that a step in flight chooses for certain.
        self.due_s: Floats = rows["aimed_s"] + self.period_s * (self.pending > 0)
        self.served_s: Floats = rows["committed_s"]
        self.length: Ints = rows["length"] + self.pending
        self.missing: Ints = self.length - rows["num_computed"]
        self.decoding: Bools = self.missing == 1
        self.own_rate: Floats = rows["own_rate"]
        # The last token is the target's own; drafts behind a prompt wait for its first token.
        room = self.room = np.maximum(0, rows["end"] - self.length - 1)
        num_behind = np.maximum(0, rows["num_drafts"] - self.pending)
        self.at_hand: Ints = np.minimum(num_behind, room) * self.decoding
        self._accept(rows["num_drafts"])
        if rows["num_also"].any():
            self._add_alternatives(np.minimum(rows["num_also"], room) * self.decoding)

    @property
    def has_prompts(self) -> bool:
        return not self.decoding.all()

    def _accept(self, num_drafts: Ints) -> None:
        """`cumulative` [sessions, drafts at hand]: P(accepted with all before it, those in flight
        included), 0 where there is none. `unbroken` [sessions]: that of the last draft here."""
        rows, count = np.arange(len(num_drafts)), len(num_drafts)
        here = np.minimum(num_drafts, self.at_hand + self.pending) * self.decoding
        width, depth = int(here.max(initial=0)), int(self.at_hand.max(initial=0))
        # [drafts, sessions], 1 before the first and 0 behind the last of each: products down the
        # columns, of all sessions at once, are several times as fast as along rows.
        chances = np.zeros((1 + width + depth, count))
        chances[0] = 1.0
        if width:
            said = np.frombuffer(b"".join([session.said for session in self.sessions]))
            ahead = np.arange(width)[:, None]
            each = said.take(np.cumsum(num_drafts) - num_drafts + ahead, mode="clip")
            each *= ahead < here
            chances[1 : 1 + width] = cumulative_acceptance(each, self._rows["calibration"])
        self.unbroken: Floats = chances[here, rows]
        first = rows + count * (1 + here - self.at_hand)
        found = chances.ravel().take(first + count * np.arange(depth)[:, None])
        self.cumulative: Floats = found.T.copy()

    def _add_alternatives(self, num_also: Ints) -> None:
        """To `cumulative`: a draft stands there by the path, or by one of its alternatives."""
        said = np.frombuffer(b"".join([session.also for session in self.sessions]))
        starts = np.cumsum(self._rows["num_also"]) - self._rows["num_also"]
        places = np.arange(max(int(num_also.max()), self.cumulative.shape[1]))
        found = said.take(starts[:, None] + places, mode="clip") * (places < num_also[:, None])
        found[:, : self.cumulative.shape[1]] += self.cumulative
        self.cumulative = found
        self.at_hand = np.maximum(self.at_hand, num_also)

    def from_edges(self, left: Ints, time_s: float) -> Floats:
        """[sessions]: drafts of its edge that a step in so long is expected to accept.

        By what steps accepted, as far as is known, else by the edge's speed. `left` [sessions]:
        drafts here that no step before it takes. If what is under way proves right the edge has
        drafted on behind them; else it begins anew when it has heard of it.
        """
        rows = self._rows
        draft_s = rows["draft_time_s"]
        comes = (rows["drafts_on"] > 0) & (draft_s > 0.0)
        ahead_s = self.unbroken * time_s
        anew_s = (1.0 - self.unbroken) * np.maximum(0.0, time_s - rows["round_trip_s"])
        num = (ahead_s + anew_s) / np.where(comes, draft_s, np.inf) + self.unbroken * left
        told = num_accepted(rows["acceptance"], num)
        found: Floats = (rows["from_steps"] + _PRIOR_STEPS * told) / (rows["steps"] + _PRIOR_STEPS)
        return found

    def edges(self, now: float) -> tuple[Floats, Floats, Floats]:
        """[sessions] each: seconds until the edge's next draft should be here, at least what one
        takes, infinite if none is to come; P(it is accepted); and the round trip.

        An edge that is overdue by some time is expected to take as long again.
        """
        rows = self._rows
        draft_s, away_s, arrived_s = rows["draft_time_s"], rows["round_trip_s"], rows["arrived_s"]
        # The next draft follows the last one here; behind none the last verdict is on its way.
        expected_s = np.maximum(arrived_s + draft_s, self.served_s)
        none_here = np.isneginf(arrived_s)
        expected_s[none_here] = (self.served_s + away_s + draft_s)[none_here]
        comes = (rows["drafts_on"] > 0) & (draft_s > 0.0)  # as far as is known
        wait_s = np.where(comes, np.maximum(draft_s, np.abs(expected_s - now)), np.inf)
        return wait_s, rows["acceptance"], away_s
