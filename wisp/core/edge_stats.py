"""What an edge's predictions are worth: predicted against observed acceptance, per session.

An edge reports of each draft token P(accepted | all before it were). The server multiplies it by
(observed acceptance) / (predicted acceptance) over the recent past: a scale with one parameter that
an honest edge leaves at 1, and that takes a liar's drafts to nearly nothing. Both sums fade with
every examined token, the prior in them too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wisp.core.drafts import DraftBlock

Floats = NDArray[np.float64]

_KEPT = 0.98  # of the past, with every examined token: a memory of 50 tokens
_NGRAM_KEPT = 0.95  # a text repeats itself for a while, and then no more
_MIN = 1e-3  # so that a bad edge's drafts stay in order, and are verified where that is free


@dataclass(slots=True)
class EdgeHistory:
    """What the server saw of one session's edge; the scheduler reads it and lets it fade."""

    examined: float = 4.0  # draft tokens verified, up to the first rejected one of each round
    accepted: float = 2.8  # of those; the start is a prior of 4 tokens at 0.7
    predicted: float = 2.8  # what the edge said `accepted` would be
    calibration: float = 1.0  # accepted / predicted: what the edge's predictions are multiplied by
    committed: float = 0.0  # tokens while the edge was asked to draft
    from_edge: float = 0.0  # of those, accepted drafts
    verified: float = 0.0  # draft tokens that it took
    rounds: float = 0.0  # seats that held them
    num_committed: int = 0  # as `committed`, but never fades
    ngram_examined: float = 4.0  # as `examined` and `accepted`, of the server's own drafts
    ngram_accepted: float = 2.0
    draft_time_s: float | None = None  # of one token
    round_trip_s: float | None = None  # without the drafting
    switched_s: float | None = None  # when drafting was last switched on or off, or probed
    probed_from: int | None = None  # num_committed when the running probe began
    num_failed_probes: int = 0

    def usual_s(self, num_tokens: int) -> float:
        """From a verdict that contradicts the stream to a block of so many drafts."""
        if self.draft_time_s is None or self.round_trip_s is None:
            return math.inf
        return self.round_trip_s + num_tokens * self.draft_time_s

    def arrived(self, block: DraftBlock, answers_s: float | None, now: float) -> None:
        """Learn the edge's speed, and its distance from when what the block answers was sent."""
        if block.tokens and block.draft_time_s > 0:
            time_s = block.draft_time_s / len(block.tokens)
            self.draft_time_s = _blend(self.draft_time_s, time_s)
        if answers_s is not None:
            time_s = max(0.0, now - answers_s - block.draft_time_s)
            self.round_trip_s = _blend(self.round_trip_s, time_s)


def _blend(old: float | None, new: float) -> float:
    return new if old is None else 0.75 * old + 0.25 * new


def learn(history: EdgeHistory, acceptance: Sequence[float], num_accepted: int) -> None:
    """Of one verified block: the tokens behind the first rejected one tell nothing."""
    for index, predicted in enumerate(acceptance[: num_accepted + 1]):
        history.examined = _KEPT * history.examined + 1.0
        history.predicted = _KEPT * history.predicted + predicted
        history.accepted = _KEPT * history.accepted + (index < num_accepted)
    history.calibration = max(_MIN, history.accepted / max(history.predicted, 1e-9))


def learn_ngram(history: EdgeHistory, num_drafted: int, num_accepted: int) -> None:
    """As `learn`, of a block of n-gram drafts: all are taken to be equally likely."""
    num_examined = min(num_drafted, num_accepted + 1)
    kept = _NGRAM_KEPT**num_examined
    history.ngram_examined = kept * history.ngram_examined + num_examined
    history.ngram_accepted = kept * history.ngram_accepted + num_accepted


def count(history: EdgeHistory, num_verified: int, num_accepted: int, num_committed: int) -> None:
    """Of one step in which the edge was asked to draft, whether its drafts came or not."""
    kept = _KEPT**num_committed
    history.committed = kept * history.committed + num_committed
    history.from_edge = kept * history.from_edge + num_accepted
    history.verified = kept * history.verified + num_verified
    history.rounds = kept * history.rounds + (num_verified > 0)
    history.num_committed += num_committed


def observed_acceptance(history: EdgeHistory) -> float:
    """P(a draft token is accepted | all before it were), over the recent past."""
    return history.accepted / history.examined


def cumulative_acceptance(acceptance: Floats, calibrations: Floats) -> Floats:
    """[sessions, drafts] of P(accepted | all before it) to P(it and all before it are accepted)."""
    cumulative: Floats = np.minimum(acceptance * calibrations[:, None], 1.0)
    np.cumprod(cumulative, axis=1, out=cumulative)
    return cumulative


def forget(history: EdgeHistory, weight: float = 2.0) -> None:
    """Keep the ratios, but only `weight` tokens of evidence: what comes next decides."""
    factor = min(1.0, weight / history.examined)
    history.examined *= factor
    history.accepted *= factor
    history.predicted *= factor
    history.committed = history.from_edge = history.verified = history.rounds = 0.0
