"""Until when a target that has one session alone had better wait for that session's edge.

Pure: no I/O, no clock. Beside others a session that waits loses a step; alone it loses the wait.
"""

from __future__ import annotations

import math
from itertools import accumulate
from operator import mul
from typing import NamedTuple

from wisp.core.session import Session
from wisp.estimator.curve import Curve
from wisp.estimator.shape import StepShape

# The share of the longest wait that pays that the usual one may take. Measured: with more, one
# session on a LAN with a slow drafter loses a fiftieth (docs/measurements/forks.md).
_WORTH = 0.75


class Wait(NamedTuple):
    until_s: float  # on the session's clock
    in_vain: bool  # when that has passed, the edge has sent nothing at all


def wait_of(session: Session, curve: Curve) -> Wait | None:
    """For the next draft of the only session there is; None: it is not worth it, or none will come.

    A step now commits V tokens in S seconds, those of one draft more V' in S'. The drafts made
    while a step runs are of use behind it with a chance q, which saves their time. So a wait of t
    pays while

        V' / (S' + t) > V / (S - q t),    that is, up to    t = (V' S - V S') / (V + q V').
    """
    if not _may_come(session):
        return None
    edge, drafts = session.edge_stats, session.drafts
    scale, num = drafts.calibration, min(len(drafts.tokens), session.max_drafts)
    right = [min(1.0, scale * each) for each in drafts.acceptance[:num]]
    cumulative = [1.0, *accumulate(right, mul)]
    value, more, then, chance = sum(cumulative), 1.0 + edge.acceptance.rate, 1, edge.acceptance.rate
    if session.stream.tokens:  # else there are none at hand, or n-gram drafts
        chance *= cumulative[-1]
        more, then = value + chance, num + 1
    shape = StepShape(1, len(session.tokens), 0.0, 1)
    now_s, then_s = (curve.time_s(shape.with_drafts(count)) for count in (num, then))
    pays_s = (more * now_s - value * then_s) / (value + chance * more)
    begun_s = session.committed_s
    usual_s = edge.draft_time_s or math.inf
    if session.stream.tokens:
        begun_s = max(begun_s, session.stream.arrived_s)
    else:
        usual_s += edge.round_trip_s or 0.0
    if usual_s >= _WORTH * pays_s:
        return None
    return Wait(begun_s + pays_s, in_vain=not session.stream.tokens)


def _may_come(session: Session) -> bool:
    """Drafts are expected of the edge, and a step could take one more."""
    return (
        session.waits_for_edge
        and not session.edge_resting
        and session.num_in_flight == 0
        and session.decoding
        and len(session.stream.tokens) < session.max_drafts
    )
