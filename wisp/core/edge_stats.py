"""What the server saw of one session's edge: its acceptance, its speed and what it brought.

An edge reports of each draft token P(accepted | all before it were). The server multiplies it by
(observed acceptance) / (predicted acceptance) over the recent past: a scale with one parameter that
an honest edge leaves at 1, and that takes a liar's drafts to nearly nothing. Both sums fade with
every examined token, the prior in them too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from wisp.core.acceptance import KEPT, ModelAcceptance
from wisp.core.drafts import DraftBlock
from wisp.core.smoothing import smoothed

# The evidence, in draft tokens, that is left when an edge is to be judged anew. Chosen: less than
# one block holds, so that the first one of a probe decides.
_FORGOTTEN_EXAMINED = 2.0

# Share that every step leaves of what steps with the edge's drafts alone brought; and one in which
# own drafts took their place. Chosen: a memory of 20 steps, which is forgotten within some hundred,
# so that an edge that has become faster is tried again.
_KEPT_STEP, _KEPT_OTHER = 0.95, 0.99

# Weight of the newest drafting time and round trip in the smoothed ones. Chosen: a network that
# changes is known after four blocks, and one slow block does not pass for a change.
_NEWEST = 0.25

# Verdicts whose time of leaving is remembered, to be paired with the block that answers them.
# Chosen: more than can be on the way between a server and an edge.
_MAX_VERDICTS = 256


@dataclass(slots=True)
class EdgeStats:
    """Of one session's edge; all that is counted here fades, but for `num_committed`."""

    acceptance: ModelAcceptance = field(default_factory=ModelAcceptance)
    committed: float = 0.0  # tokens while the edge was asked to draft
    from_edge: float = 0.0  # of those, accepted drafts
    verified: float = 0.0  # draft tokens that it took
    num_committed: int = 0  # as `committed`, but never fades
    steps: float = 0.0  # in which the edge was asked to draft, and nobody else drafted in its place
    from_steps: float = 0.0  # accepted drafts in them
    draft_time_s: float | None = None  # of one token
    round_trip_s: float | None = None  # without the drafting
    switched_s: float | None = None  # when it last began to rest or was tried; None: never
    num_rests: int = 0  # how often its drafts were found to gain too little
    _tried_from: int = 0  # num_committed when its trial began
    _sent_s: dict[int, float] = field(default_factory=dict)  # of verdicts, by where they ended

    @property
    def calibration(self) -> float:
        """What the edge's predictions are multiplied by."""
        return self.acceptance.calibration

    def usual_s(self, num_tokens: int) -> float:
        """From a verdict that contradicts the stream to a block of so many drafts."""
        if self.draft_time_s is None or self.round_trip_s is None:
            return math.inf
        return self.round_trip_s + num_tokens * self.draft_time_s

    def answered(self, end: int, now: float) -> None:
        """A verdict that commits all tokens before position `end` leaves for the edge."""
        self._sent_s[end] = now
        if len(self._sent_s) > _MAX_VERDICTS:
            del self._sent_s[next(iter(self._sent_s))]

    def arrived(self, block: DraftBlock, now: float, *, begins_epoch: bool) -> None:
        """Learn the edge's speed and, of the first block of an epoch, its distance.

        An epoch begins where the verdict ended that contradicted the one before.
        """
        if block.tokens and block.draft_time_s > 0:
            time_s = block.draft_time_s / len(block.tokens)
            self.draft_time_s = smoothed(self.draft_time_s, time_s, _NEWEST)
        sent_s = self._sent_s.get(block.position) if begins_epoch else None
        if sent_s is not None:
            time_s = max(0.0, now - sent_s - block.draft_time_s)
            self.round_trip_s = smoothed(self.round_trip_s, time_s, _NEWEST)

    def learn(self, predicted: Sequence[float], num_accepted: int) -> None:
        """Of one verified block, with what the edge predicted of each of its tokens."""
        self.acceptance.compare(predicted, num_accepted)

    def count(self, num_verified: int, num_accepted: int, num_committed: int) -> None:
        """Of one step in which the edge was asked to draft, whether its drafts came or not."""
        kept = KEPT**num_committed
        self.committed = kept * self.committed + num_committed
        self.from_edge = kept * self.from_edge + num_accepted
        self.verified = kept * self.verified + num_verified
        self.num_committed += num_committed

    def stepped(self, num_accepted: int, *, has_other: bool) -> None:
        """A step accepted so many of its drafts. `has_other`: the step took own drafts instead."""
        kept = _KEPT_OTHER if has_other else _KEPT_STEP
        self.steps = kept * self.steps + (not has_other)
        self.from_steps = kept * self.from_steps + num_accepted

    def forget(self) -> None:
        """Keep the ratios, but little evidence for them: what comes next decides."""
        factor = min(1.0, _FORGOTTEN_EXAMINED / self.acceptance.examined)
        self.acceptance.forget(factor)
        self.committed = self.from_edge = self.verified = 0.0

    @property
    def on_trial(self) -> bool:
        """It has not drafted for as many tokens yet as are remembered."""
        return self.num_committed - self._tried_from < 1.0 / (1.0 - KEPT)

    def rested(self, now: float) -> None:
        """It is asked to draft nothing from now on."""
        self.switched_s = now
        self.num_rests += 1

    def tried(self, now: float) -> None:
        """It drafts again, to be judged by that alone."""
        self.forget()
        self.switched_s, self._tried_from = now, self.num_committed
