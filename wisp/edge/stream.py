"""The edge's end of one draft stream. Pure: no I/O, no clock.

The mirror of `wisp.core.session.Session`: the server decides what is committed, the edge owns the
epochs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

from wisp.core.drafts import REST, Directive, DraftBlock, Verdict
from wisp.edge.drafter.base import Proposal
from wisp.edge.predictor.base import TYPICAL_ACCEPTANCE, Features, Label, Predictor, Repeats
from wisp.edge.waste import Cost, Waste
from wisp.errors import ProtocolError

_BYTE = 255  # the steps of an acceptance in the protocol, one byte for each token
_FREE = Cost()
# The weight of the newest label in a session's recent acceptance. Chosen: it looks back over some
# ten tokens, so that a passage which is easy or hard to draft shows while it lasts.
RECENT_RATE = 0.1


class Begun(NamedTuple):
    """What was so when a draft token was begun; much may have changed when it is there."""

    epoch: int
    position: int
    overlapped: bool  # see wisp.edge.waste


class Stream:
    """Committed tokens, and behind them the drafts of the live epoch."""

    def __init__(self, prompt: Sequence[int], max_tokens: int) -> None:
        self.committed: list[int] = list(prompt)
        self.num_prompt = len(prompt)
        self.max_tokens = max_tokens
        self._max_context = sys.maxsize  # the most tokens that its drafter can draft behind
        self._drafter_vocab = sys.maxsize  # and the ids that it knows are below this
        self._is_foreign = False  # an id is committed that the drafter does not know
        self.epoch = 1
        self.directive: Directive = REST
        self.drafted: list[int] = []  # for positions len(committed), ...
        self._acceptance: list[float] = []
        self._costs: list[Cost] = []
        self._features: list[Features | None] = []
        self._repeats = Repeats(prompt)
        self._run = 0  # drafts of this epoch that no verdict has contradicted
        self._recent = TYPICAL_ACCEPTANCE
        self._labels: list[Label] = []
        self._num_sent = 0
        self._opening = True  # no verdict has come since the stream was opened
        self.num_drafted = 0
        self.num_accepted = 0
        self.waste = Waste()

    def limit(self, max_context: int, vocab_size: int) -> None:
        """What its drafter can draft behind: so many tokens, all of them ids below `vocab_size`."""
        self._max_context, self._drafter_vocab = max_context, vocab_size
        self._look_for_foreign(self.committed)

    def _look_for_foreign(self, tokens: Sequence[int]) -> None:
        self._is_foreign |= max(tokens, default=0) >= self._drafter_vocab

    @property
    def tokens(self) -> list[int]:
        return self.committed + self.drafted

    @property
    def end(self) -> int:
        """The position of the next draft token."""
        return len(self.committed) + len(self.drafted)

    @property
    def num_remaining(self) -> int:
        """Output tokens still to come at most."""
        return self.max_tokens - (len(self.committed) - self.num_prompt)

    @property
    def cumulative_acceptance(self) -> float:
        """P(all drafts are accepted)."""
        return math.prod(self._acceptance)

    @property
    def wants_token(self) -> bool:
        # The last token of an answer is the target's own choice in any case.
        max_drafts = min(self.directive.window, self.num_remaining - 1)
        if len(self.drafted) >= max_drafts or self.end > self._max_context or self._is_foreign:
            return False
        return self.cumulative_acceptance >= self.directive.threshold

    @property
    def owed_a_verdict(self) -> bool:
        """The server has something of this session's to answer: an opening, or drafts."""
        return self._opening or self._num_sent > 0

    @property
    def waste_at_end(self) -> Waste:
        """If the generation ended now: drafts that nobody verified are wasted, too."""
        return self.waste.plus(self._costs)

    def begin_token(self) -> Begun:
        return Begun(self.epoch, self.end, self.owed_a_verdict)

    def can_take(self, begun: Begun) -> bool:
        """False if a verdict went past the token meanwhile, or against it."""
        return (begun.epoch, begun.position) == (self.epoch, self.end) and self.wants_token

    def features(self, proposal: Proposal, temperature: float) -> Features:
        """What is known of a proposal for the next position."""
        before = self.drafted if len(self.drafted) > 1 else self.committed[-2:] + self.drafted
        repeats = self._repeats.agree(before, proposal.token)
        return Features(proposal, temperature, self._recent, self._run, repeats)

    def append(
        self,
        token: int,
        acceptance: float,
        cost: Cost = _FREE,
        features: Features | None = None,
    ) -> None:
        """One more draft token; `acceptance` = P(accepted | all before it are).

        Its label is kept for `take_labels` once the target has spoken, if `features` are given.
        """
        self.drafted.append(token)
        self._features.append(features)
        self._run += 1
        # As the wire carries it, so that both ends reckon with the same number.
        self._acceptance.append(math.floor(acceptance * _BYTE) / _BYTE)
        self._costs.append(cost)
        self.num_drafted += 1

    def finish_token(
        self,
        begun: Begun,
        proposal: Proposal,
        time_s: float,
        *,
        predictor: Predictor,
        temperature: float,
        vocab_size: int,
    ) -> bool:
        """The drafter has made its proposal for a token that was begun: take it, if it still fits.

        Returns whether it did.
        """
        cost = Cost(time_s, begun.overlapped)
        if not self.can_take(begun):
            self.discard(cost)
            return False
        if proposal.token < vocab_size:
            features = self.features(proposal, temperature)
            self.append(proposal.token, predictor.acceptance(features), cost, features)
        else:  # a drafter's padded vocabulary may be the larger one
            self.append(0, 0.0, cost)
        return True

    def discard(self, cost: Cost) -> None:
        """A token was drafted for nothing: a verdict overtook it."""
        self.num_drafted += 1
        self.waste = self.waste.plus([cost])

    def take_block(self, block_tokens: int) -> DraftBlock | None:
        """What is to be sent now: `block_tokens` drafts, or fewer when no more will come."""
        first = self._num_sent
        num_unsent = len(self.drafted) - first
        if num_unsent == 0:
            return None
        complete = not self.wants_token
        if num_unsent < block_tokens and not complete:
            return None
        self._num_sent = len(self.drafted)
        return DraftBlock(
            epoch=self.epoch,
            position=len(self.committed) + first,
            tokens=self.drafted[first:],
            acceptance=self._acceptance[first:],
            draft_time_s=sum(cost.time_s for cost in self._costs[first:]),
            complete=complete,
        )

    def take_verdict(self, verdict: Verdict) -> list[int]:
        """Append what the verdict commits beyond what is known; returns those tokens.

        Where it contradicts the drafts a new epoch begins. Raises ProtocolError on a gap.
        """
        num_known = len(self.committed) - verdict.position
        if num_known < 0:
            raise ProtocolError(
                f"a verdict at position {verdict.position} came when {len(self.committed)} "
                "tokens are committed"
            )
        fresh = verdict.tokens[num_known:]
        self._opening = False
        self.committed.extend(fresh)
        self._look_for_foreign(fresh)
        self.directive = verdict.directive
        self._repeats.extend(fresh)
        num_agreeing = _common_prefix(self.drafted, fresh)
        self.num_accepted += num_agreeing
        self._label(num_agreeing, min(len(self.drafted), len(fresh)))
        if num_agreeing == min(len(self.drafted), len(fresh)):
            self._drop(num_agreeing)
            self._num_sent = max(0, self._num_sent - len(fresh))
        else:
            self.waste = self.waste.plus(self._costs[num_agreeing:])
            self._drop(len(self.drafted))
            self._run = 0
            self._begin_epoch()
        return fresh

    def take_labels(self) -> list[Label]:
        """What the verdicts since the last call said of drafts, in the order of positions."""
        labels, self._labels = self._labels, []
        return labels

    def _label(self, num_agreeing: int, num_compared: int) -> None:
        """A committed token is the target's choice behind what precedes it, drafted or not.

        So all drafts up to the first that differs from it are judged; those behind that one were
        made for a text that does not exist, and nobody can say what they were worth.
        """
        for index in range(min(num_compared, num_agreeing + 1)):
            accepted = index < num_agreeing
            self._recent += RECENT_RATE * (accepted - self._recent)
            features = self._features[index]
            if features is not None:
                self._labels.append(Label(features, accepted))

    def reopen(self) -> None:
        """What is committed goes to a server anew: nothing that was sent before counts as sent."""
        self._opening = True
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        """With the drafts at hand, if there are any."""
        self.epoch += 1
        self._num_sent = 0

    def finish(self) -> None:
        """The generation is over."""
        self.directive = REST
        self.waste = self.waste_at_end
        self._drop(len(self.drafted))

    def _drop(self, count: int) -> None:
        del self.drafted[:count], self._acceptance[:count]
        del self._costs[:count], self._features[:count]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))
