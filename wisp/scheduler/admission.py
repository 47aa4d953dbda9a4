"""May another session join without breaking the promises made to the others?"""

from __future__ import annotations

from collections.abc import Collection

from wisp.core import Session, Slo
from wisp.estimator.base import Estimator
from wisp.estimator.shape import SeatedShape

_USABLE = 0.9  # of the time; the rest is for prefill and for what the estimator cannot know
_LEAST_WAIT_S, _MOST_WAIT_S = 0.5, 30.0


def retry_after_s(
    sessions: Collection[Session],
    slo: Slo,
    estimator: Estimator,
    tokens_per_seat: float,
    committed_per_seat: float,
) -> float | None:
    """None: it may join; else how long until, by its rate, a session will have ended.

    In a period 1 / (fastest rate) all promised tokens together are (sum of rates) / (fastest rate);
    a step that commits them must take no longer than that period. Plainly a token is a seat of one
    token; with drafts a seat holds `tokens_per_seat` and commits `committed_per_seat`, as lately
    measured. Whichever of both is cheaper decides.
    """
    if not sessions:
        return None
    rates = [session.slo.tokens_per_s for session in sessions] + [slo.tokens_per_s]
    fastest = max(rates)
    num_seats = sum(rates) / fastest
    context = sum(len(s.tokens) * s.slo.tokens_per_s for s in sessions) / sum(rates[:-1])
    times_s = []
    for tokens, committed in ((1.0, 1.0), (tokens_per_seat, committed_per_seat)):
        seats = num_seats / committed
        shape = SeatedShape(round(seats * tokens), round(seats * context), 0.0, round(seats))
        times_s.append(estimator.predict_s(shape))  # a rate is kept over many steps, not in each
    if min(times_s) <= _USABLE / fastest:
        return None
    wait_s = min(s.num_remaining / s.slo.tokens_per_s for s in sessions)
    return min(_MOST_WAIT_S, max(_LEAST_WAIT_S, wait_s))
