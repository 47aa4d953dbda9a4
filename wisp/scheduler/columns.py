"""The sessions as arrays: one row for each, so that a decision over a thousand takes no loops."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from wisp.core.acceptance import cumulative_acceptance
from wisp.core.session import Session
from wisp.estimator.shape import StepShape

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Columns:
    """One array for each fact; struct packs lists several times as fast as numpy."""

    def __init__(self, sessions: Collection[Session]) -> None:
        rows = self.sessions = list(sessions)
        self.period_s: Floats = 1.0 / _floats([s.slo.tokens_per_s for s in rows])
        self.pending: Ints = _ints([s.num_pending for s in rows])
        # Of the token behind the one that a step in flight chooses for certain.
        self.due_s: Floats = _floats([s.aimed_s for s in rows]) + self.period_s * (self.pending > 0)
        self.served_s: Floats = _floats([s.committed_s for s in rows])
        self.length: Ints = _ints([len(s.tokens) for s in rows]) + self.pending
        self.missing: Ints = self.length - _ints([s.num_computed for s in rows])
        self.decoding: Bools = self.missing == 1
        drafts = [s.drafts.acceptance for s in rows]
        num_drafts = _ints([len(each) for each in drafts])
        # The last token is the target's own; drafts behind a prompt wait for its first token.
        room = np.maximum(0, _ints([s.end for s in rows]) - self.length - 1)
        self.at_hand: Ints = np.clip(num_drafts - self.pending, 0, room) * self.decoding
        self._accept(drafts, num_drafts)

    def _accept(self, drafts: list[array[float]], num_drafts: Ints) -> None:
        """`cumulative` [sessions, drafts at hand]: P(accepted with all before it, those in flight
        included), 0 where there is none. `unbroken` [sessions]: that of the last draft here."""
        here = np.minimum(num_drafts, self.at_hand + self.pending) * self.decoding
        width = int(here.max(initial=0))
        table = np.ones((len(self.sessions), width + 1))
        if width:
            flat = np.frombuffer(b"".join(drafts))
            ahead = np.arange(width)
            taken = ahead < here[:, None]
            start = np.cumsum(num_drafts) - num_drafts
            table[:, 1:][taken] = flat[(start[:, None] + ahead)[taken]]
            calibration = _floats([s.drafts.calibration for s in self.sessions])
            table[:, 1:] = cumulative_acceptance(table[:, 1:], calibration)
        self.unbroken: Floats = table[np.arange(len(here)), here]
        ahead = np.arange(1, int(self.at_hand.max(initial=0)) + 1)
        behind = np.minimum((here - self.at_hand)[:, None] + ahead, width)
        self.cumulative: Floats = np.take_along_axis(table, behind, axis=1)
        self.cumulative *= ahead <= self.at_hand[:, None]

    def edges(self, now: float) -> tuple[Floats, Floats, Floats]:
        """[sessions] each: seconds until the edge's next draft should be here, at least what one
        takes, infinite if none is to come; P(it is accepted); and the round trip.

        An edge that is overdue by some time is expected to take as long again.
        """
        rows = self.sessions
        edges = [s.edge_stats for s in rows]
        draft_s = _floats([e.draft_time_s or 0.0 for e in edges])
        away_s = _floats([e.round_trip_s or 0.0 for e in edges])
        acceptance = _floats([e.acceptance.accepted for e in edges])
        acceptance = acceptance / _floats([e.acceptance.examined for e in edges])
        hopes = _ints([s.directive.window > 0 and not s.stream.complete for s in rows]) > 0
        # The next draft follows the last one here; behind none the last verdict is on its way.
        arrived_s = _floats([s.stream.arrived_s if s.stream.tokens else -np.inf for s in rows])
        drafting_s = np.maximum(arrived_s + draft_s, self.served_s)
        expected_s = np.where(arrived_s > -np.inf, drafting_s, self.served_s + away_s + draft_s)
        hopes &= draft_s > 0.0  # as far as is known
        wait_s = np.full(len(rows), np.inf)
        wait_s[hopes] = np.maximum(draft_s, np.abs(expected_s - now))[hopes]
        return wait_s, acceptance, away_s

    def seats(self, rows: Ints) -> StepShape:
        """Of a step in which these decode."""
        return StepShape(len(rows), int(self.length[rows].sum()), 0.0, len(rows))

    def chunk(self, row: int, num_tokens: int) -> StepShape:
        """Of a step that computes so many tokens of a prompt."""
        length = int(self.length[row] - self.missing[row]) + num_tokens
        product = float(num_tokens * length) if num_tokens > 1 else 0.0
        return StepShape(num_tokens, length, product, 1)


def _floats(values: list[float]) -> Floats:
    return np.frombuffer(struct.pack(f"{len(values)}d", *values))


def _ints(values: list[int]) -> Ints:
    return np.frombuffer(struct.pack(f"{len(values)}q", *values), dtype=np.int64)
