"""The sessions as arrays: one row for each, so that a decision over a thousand takes no loops."""

from __future__ import annotations

import struct
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from wisp.core.acceptance import cumulative_acceptance
from wisp.core.session import Session

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# An edge is late once it takes so many times as long as it usually does. Chosen: half as long
# again, so that usual jitter makes none late.
_LATE = 1.5
# Periods of its session that an edge is waited for at most. Chosen: what is lost then can be made
# good again before the next deadline.
_MAX_PERIODS = 2.0
# Draft tokens of one session in one step. Chosen: behind 32 tokens hardly any are accepted, even at
# an acceptance of 0.9 for each.
_MAX_DRAFTS = 32


class Columns:
    """One array for each fact; struct packs lists several times as fast as numpy."""

    def __init__(self, sessions: Collection[Session], block_tokens: int) -> None:
        self.sessions = list(sessions)
        rows = self.sessions
        self.period_s: Floats = 1.0 / _floats([s.slo.tokens_per_s for s in rows])
        self._pending = _ints([s.num_pending for s in rows])
        # Of the token behind the one that a step in flight chooses for certain.
        self.due_s: Floats = _floats([s.aimed_s for s in rows]) + self.period_s * (
            self._pending > 0
        )
        self.length = _ints([len(s.tokens) for s in rows]) + self._pending
        self.missing = self.length - _ints([s.num_computed for s in rows])
        self.decoding: Bools = self.missing == 1
        buffered = _ints([len(s.stream.tokens) for s in rows])
        self.buffered: Ints = np.maximum(0, buffered - self._pending)
        self._drafts = [s.drafts.acceptance for s in rows]
        self._num_drafts = _ints([len(drafts) for drafts in self._drafts])
        self._calibration = [s.drafts.calibration for s in rows]
        # The last token is the target's own; drafts behind a prompt wait for its first token.
        max_drafts = _ints([s.end for s in rows]) - self.length - 1
        at_hand = np.clip(self._num_drafts - self._pending, 0, _MAX_DRAFTS)
        self.usable: Ints = np.minimum(at_hand, max_drafts) * self.decoding
        # As Session.waits_for_edge and edge_resting, which cost a call for each session.
        hoped = [
            0 if s.stream.complete or s.edge_late or not s.has_edge else s.directive.window
            for s in rows
        ]
        wanted = np.minimum(np.minimum(_ints(hoped), block_tokens), max_drafts)
        self.waiting: Bools = self.decoding & (self.buffered < wanted)
        self._block_tokens = block_tokens

    def expected_s(self) -> Floats:
        """When the drafts waited for should be here: by the edge's own habit, and within two
        periods at the most."""
        found = np.full(len(self.sessions), -np.inf)
        for row in np.flatnonzero(self.waiting).tolist():
            session = self.sessions[row]
            usual_s = _LATE * session.edge_stats.usual_s(self._block_tokens)
            found[row] = session.committed_s + min(usual_s, _MAX_PERIODS / session.slo.tokens_per_s)
        return found

    def cumulative_acceptance(self) -> Floats:
        """[sessions, drafts at hand]: P(accepted with all before it, those in flight included); 0
        where there is no draft."""
        behind = self._pending * (self.usable > 0)
        width = int((self.usable + behind).max(initial=0))
        table = np.zeros((len(self.sessions), width))
        if width == 0:
            return table
        flat = np.frombuffer(b"".join(self._drafts))
        ahead = np.arange(width)
        taken = ahead < (self.usable + behind)[:, None]
        start = np.cumsum(self._num_drafts) - self._num_drafts
        table[taken] = flat[(start[:, None] + ahead)[taken]]
        cumulative = cumulative_acceptance(table, _floats(self._calibration))
        if not behind.any():
            return cumulative
        shifted = np.pad(cumulative, ((0, 0), (0, int(behind.max()))))
        columns = behind[:, None] + np.arange(int(self.usable.max()))
        found: Floats = np.take_along_axis(shifted, columns, axis=1)
        return found


def _floats(values: list[float]) -> Floats:
    return np.frombuffer(struct.pack(f"{len(values)}d", *values))


def _ints(values: list[int]) -> Ints:
    return np.frombuffer(struct.pack(f"{len(values)}q", *values), dtype=np.int64)
