"""The edge's end of one draft stream. Pure: no I/O, no clock.

The mirror of `wisp.core.draft_stream`: the server decides what is committed, the edge owns the
epochs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from wisp.core.drafts import REST, Directive, DraftBlock, Rejection, Verdict
from wisp.edge.drafter.base import Proposal
from wisp.edge.outgoing import Outgoing
from wisp.edge.predictor.base import TYPICAL_ACCEPTANCE, Features, Label, Predictor, Repeats
from wisp.edge.tree import Candidate, Node, Tree
from wisp.edge.waste import Cost, Waste
from wisp.errors import ProtocolError

_FREE = Cost()
# The weight of the newest label in a session's recent acceptance. Chosen: it looks back over some
# ten tokens, so that a passage which is easy or hard to draft shows while it lasts.
RECENT_RATE = 0.1
# The least chance to be on the target's path of a token behind which an edge drafts. Chosen: what
# is less likely is hardly ever of use, and an edge's energy is somebody's.
MIN_CHANCE = 0.02


class Begun(NamedTuple):
    """A draft token that was begun; much may have changed when it is there."""

    leaf: Node  # behind which it is drafted
    overlapped: bool  # see wisp.edge.waste

    @property
    def position(self) -> int:
        return self.leaf.position + 1


class Stream:
    """Committed tokens, and behind them the tree of drafts."""

    def __init__(self, prompt: Sequence[int], max_tokens: int) -> None:
        self.committed: list[int] = list(prompt)
        self.num_prompt = len(prompt)
        self.max_tokens = max_tokens
        self._max_context = sys.maxsize  # the most tokens that its drafter can draft behind
        self._drafter_vocab = sys.maxsize  # and the ids that it knows are below this
        self._min_chance = MIN_CHANCE
        self._is_foreign = False  # an id is committed that the drafter does not know
        self.max_forks = 0  # that the server keeps
        self.directive: Directive = REST
        self._tree = Tree(len(self.committed) - 1)
        self._outgoing = Outgoing()
        self._repeats = Repeats(prompt)
        self._recent = TYPICAL_ACCEPTANCE
        self._labels: list[Label] = []
        self._opening = True  # no verdict has come since the stream was opened
        self.num_drafted = 0
        self.num_accepted = 0
        self.num_forked = 0  # of those drafted, behind an alternative
        self.num_forked_wasted = 0
        self.rejection: Rejection | None = None  # what the last verdict did to the likeliest path
        self.waste = Waste()

    def limit(self, max_context: int, vocab_size: int, min_chance: float = MIN_CHANCE) -> None:
        """What its drafter can draft behind: so many tokens, all of them ids below `vocab_size`.

        `min_chance`: the least chance to be on the target's path of a token that is worth it.
        """
        self._max_context, self._drafter_vocab = max_context, vocab_size
        self._min_chance = min_chance
        self._look_for_foreign(self.committed)

    def _look_for_foreign(self, tokens: Sequence[int]) -> None:
        self._is_foreign |= max(tokens, default=0) >= self._drafter_vocab

    @property
    def epoch(self) -> int:
        """The live one."""
        return self._outgoing.epoch

    @property
    def drafted(self) -> list[int]:
        """The likeliest path, for positions len(committed), ..."""
        return [node.token for node in self._tree.main()]

    @property
    def num_remaining(self) -> int:
        """Output tokens still to come at most."""
        return self.max_tokens - (len(self.committed) - self.num_prompt)

    @property
    def wants_token(self) -> bool:
        return any(map(self._wants, self._tree.leaves))

    @property
    def owed_a_verdict(self) -> bool:
        """The server has something of this session's to answer: an opening, or drafts."""
        return self._opening or any(node.epoch for node in self._tree.root.children)

    @property
    def waste_at_end(self) -> Waste:
        """If the generation ended now: drafts that nobody verified are wasted, too."""
        return self.waste.plus(node.cost for node in self._tree.nodes() if node.drafted)

    def wanted(self) -> list[Node]:
        """Leaves behind which to draft, those most likely to be on the target's path first."""
        wanted = [leaf for leaf in self._tree.leaves if self._wants(leaf)]
        return sorted(wanted, key=lambda leaf: -leaf.cumulative)

    def _wants(self, leaf: Node) -> bool:
        if self._is_foreign:
            return False
        # What the server asks for is about a path that it verifies: a fork's is verified only if
        # the target has chosen the fork. Whether that is likely matters to the edge alone.
        if leaf.given < self.directive.threshold or leaf.cumulative < self._min_chance:
            return False
        # The last token of an answer is the target's own choice in any case.
        max_drafts = min(self.directive.window, self.num_remaining - 1)
        position = leaf.position + 1
        if position >= len(self.committed) + max_drafts or position > self._max_context:
            return False
        return leaf.rank == 0 or leaf is self._tree.root or self._tree.num_forks < self.max_forks

    def sequence(self, leaf: Node) -> list[int]:
        """All tokens up to a leaf."""
        return self.committed + self._tree.path(leaf)

    def begin(self, leaf: Node) -> Begun:
        """A token behind one of `wanted`."""
        return Begun(leaf, self.owed_a_verdict)

    def can_take(self, begun: Begun) -> bool:
        """False if a verdict went past the token meanwhile, or against it."""
        leaf = begun.leaf
        return leaf.alive and not leaf.children and self._wants(leaf)

    def features(
        self, proposal: Proposal, temperature: float, leaf: Node | None = None, rank: int = 0
    ) -> Features:
        """What is known of a candidate behind a leaf; of the likeliest path if none is named."""
        leaf = leaf or self._tree.tip()
        path = self._tree.path(leaf)
        before = path if len(path) > 1 else self.committed[-2:] + path
        repeats = self._repeats.agree(before, proposal.token)
        return Features(proposal, temperature, self._recent, leaf.run, repeats, rank)

    def append(
        self,
        token: int,
        acceptance: float,
        cost: Cost = _FREE,
        features: Features | None = None,
    ) -> None:
        """One more token of the likeliest path; `acceptance` = P(accepted | all before it are).

        Its label is kept for `take_labels` once the target has spoken, if `features` are given.
        """
        self.extend(self._tree.tip(), [Candidate(token, acceptance, features)], cost)

    def extend(self, leaf: Node, candidates: Sequence[Candidate], cost: Cost = _FREE) -> None:
        """What may follow a leaf, the likeliest first."""
        new = self._tree.extend(leaf, candidates, cost)
        self._outgoing.time_s += cost.time_s
        self.num_drafted += len(new)
        self.num_forked += sum(node.forked for node in new)

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
        leaf = begun.leaf
        candidates: list[Candidate] = []
        left = 1.0  # P(none of the better candidates | all before them are accepted)
        for rank, each in enumerate((proposal, *proposal.alternatives)):
            if rank and not self._may_fork(leaf.cumulative * left):
                break
            if each.token < vocab_size:
                features = self.features(each, temperature, leaf, rank)
                share = predictor.acceptance(features)
                candidates.append(Candidate(each.token, left * share, features))
                left *= 1.0 - share
            elif rank == 0:  # a drafter's padded vocabulary may be the larger one
                candidates.append(Candidate(0, 0.0))
        self.extend(leaf, candidates, cost)
        return True

    def _may_fork(self, cumulative: float) -> bool:
        """Whether an alternative of at most this chance is worth remembering."""
        return self.max_forks > 0 and cumulative >= self._min_chance

    def discard(self, cost: Cost) -> None:
        """A token was drafted for nothing: a verdict overtook it."""
        self.num_drafted += 1
        self.waste = self.waste.plus([cost])

    def take_block(self, block_tokens: int) -> DraftBlock | None:
        """What is to be sent now: `block_tokens` drafts, or fewer when no more will come."""
        complete = not self._wants(self._tree.tip())
        rests = complete and not self.wants_token
        return self._outgoing.take_block(self._tree, block_tokens, complete=complete, rests=rests)

    def take_verdict(self, verdict: Verdict) -> list[int]:
        """Append what the verdict commits beyond what is known; returns those tokens.

        Where it contradicts the likeliest path, a fork that goes on with it takes its place, or a
        new epoch begins. Raises ProtocolError on a gap.
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
        self.rejection = None
        for token in fresh:
            if not self._tree.root.children:
                break
            self._commit(token)
        if self._tree.root.position != len(self.committed) - 1:  # beyond all that was drafted
            self._lose(self._tree.restart(len(self.committed) - 1))
        return fresh

    def _commit(self, token: int) -> None:
        """The target's choice behind the root, which has candidates."""
        siblings = self._tree.root.children
        self._label(siblings, token)
        child = next((node for node in siblings if node.token == token), None)
        if child is not siblings[0]:
            is_fork = child is not None and child.drafted
            self.rejection = Rejection.of(is_fork, bool(child and child.children))
        if child is None:
            self._outgoing.begin_epoch()
            self._lose(self._tree.restart(self._tree.root.position + 1))
            return
        self.num_accepted += child.drafted
        self._outgoing.follow(siblings, child)
        self._lose(self._tree.descend(child))

    def _lose(self, nodes: Sequence[Node]) -> None:
        self.waste = self.waste.plus(node.cost for node in nodes)
        self.num_forked_wasted += sum(node.forked for node in nodes)

    def take_labels(self) -> list[Label]:
        """What the verdicts since the last call said of drafts, in the order of positions."""
        labels, self._labels = self._labels, []
        return labels

    def _label(self, candidates: Sequence[Node], choice: int) -> None:
        """A committed token is the target's choice behind what precedes it, drafted or not.

        So all candidates of its position are judged, up to the one that is it; what was drafted
        behind others was made for a text that does not exist, and nobody can say what it was worth.
        """
        for node in candidates:
            accepted = node.token == choice
            if node.rank == 0:
                self._recent += RECENT_RATE * (accepted - self._recent)
            if node.features is not None:
                self._labels.append(Label(node.features, accepted))
            if accepted:
                return

    def reopen(self) -> None:
        """What is committed goes to a server anew: nothing that was sent before counts as sent."""
        self._opening = True
        self._outgoing.begin_epoch()
        for node in self._tree.nodes():
            node.sent(0)

    def finish(self) -> None:
        """The generation is over."""
        self.directive = REST
        self._lose(self._tree.restart(len(self.committed) - 1))
