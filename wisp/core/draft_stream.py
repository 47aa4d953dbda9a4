"""The server's end of one draft stream: what an edge proposes, addressed by epoch and position."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import zip_longest

from wisp.core.drafts import (
    Alternative,
    DraftBlock,
    Drafts,
    Rejection,
    Source,
    chances,
    expected_accepted,
)
from wisp.core.edge_stats import EdgeStats
from wisp.core.prefix import common_prefix
from wisp.errors import ProtocolError

# Dead epochs of which it is remembered how far they agree with the text. Chosen: more than an edge
# can have begun within a round trip; a fork of a forgotten one is ignored, as is one of a dead one.
_MAX_DEAD = 256


class Branch:
    """A live epoch: its whole path from the committed text on, what it shares with others too."""

    __slots__ = ("acceptance", "complete", "epoch", "tokens")

    def __init__(self, epoch: int, tokens: list[int], acceptance: array[float]) -> None:
        self.epoch = epoch
        self.tokens = tokens
        self.acceptance = acceptance
        self.complete = False  # the edge waits for a verdict on these drafts

    def rests(self, complete: bool) -> None:
        """Whether the edge waits for a verdict on these drafts, if there are any."""
        self.complete = complete and bool(self.tokens)

    def drop(self, num_tokens: int) -> None:
        """They are committed."""
        del self.tokens[:num_tokens], self.acceptance[:num_tokens]
        self.rests(self.complete)

    def expected(self, calibration: float) -> float:
        """How many of its tokens the target will accept."""
        return expected_accepted(self.acceptance, calibration)


class DraftStream(Drafts):
    """The live epochs of an edge's drafts: a tree, of which each epoch is a path.

    One path is `tokens`, the one to be verified. Duplicates, late and reordered blocks are decided
    by (epoch, position, equality with what is committed), so handling a block twice changes
    nothing.
    """

    source = Source.EDGE

    def __init__(self, stats: EdgeStats, max_window: int, now: float, max_forks: int = 0) -> None:
        super().__init__()
        self.arrived_s = now  # when the last block came that left drafts here
        self.rejection: Rejection | None = None  # what the last commit did to the chosen path
        self._stats = stats
        self._max_window = max_window
        self._max_forks = max_forks
        self._root = 0  # the newest epoch that began without a parent
        self._live: dict[int, Branch] = {}
        self._dead: dict[int, int] = {}  # the position where each contradicts what is committed
        self._chosen: Branch | None = None

    @property
    def calibration(self) -> float:
        return self._stats.calibration

    @property
    def complete(self) -> bool:
        """The edge waits for a verdict on these drafts."""
        return self._chosen is not None and self._chosen.complete

    @property
    def num_branches(self) -> int:
        return len(self._live)

    def offer(
        self, block: DraftBlock, committed: Sequence[int], now: float, *, keep: bool = False
    ) -> bool:
        """Take a block in, with its forks; false if nothing of it is of a live epoch.

        `keep`: a step in flight verifies the chosen path, which stays chosen while it lives.

        Raises ProtocolError on a gap, on a rewrite inside one epoch, beyond `max_window` and beyond
        `max_forks`.
        """
        for each in (block, *block.forks):
            self._check_room(len(each.tokens))  # of a stale one, too: it is refused at any moment
        branch = self._take(block, committed, now)
        forks = [self._take(fork, committed, now) for fork in block.forks]
        for fork in filter(None, forks):
            # Should it take the place of the likeliest path, its edge may have no more to send, and
            # says of that path alone whether it has.
            fork.rests(True)
        if branch:
            branch.rests(block.complete)
            if branch.tokens and block.tokens:
                self.arrived_s = now
        if len(self._live) > 1 + self._max_forks:
            raise ProtocolError(
                f"{len(self._live) - 1} forks are waiting but at most {self._max_forks} may: keep "
                "to the bound that the stream was opened with"
            )
        self._choose(keep=keep)
        return branch is not None or any(forks)

    def alternatives(self, num_pending: int) -> tuple[list[Alternative], list[float]]:
        """Of the paths that leave the chosen one within its next `num_pending` tokens, which steps
        in flight are taken to choose: at each fork the one of which most can be expected.

        And, by place, how many of their drafts can be expected to be accepted there.
        """
        # By where a path leaves, and with what: how much can be expected of it, by place, and it.
        found: dict[tuple[int, int], tuple[float, list[float], Branch]] = {}
        ahead, calibration = self.tokens[:num_pending], self._stats.calibration
        for branch in self._live.values():
            tokens = branch.tokens
            place = common_prefix(tokens, ahead) if branch is not self._chosen else num_pending
            if place >= num_pending or len(tokens) <= place + 1:
                continue
            behind = chances(branch.acceptance, calibration)[place + 1 :]
            fork, expected = (place, tokens[place]), sum(behind)
            if fork not in found or expected > found[fork][0]:
                found[fork] = expected, behind, branch
        columns = zip_longest(*[behind for _, behind, _ in found.values()], fillvalue=0.0)
        return [
            Alternative(place, token, branch.tokens[place + 1 :])
            for (place, token), (_, _, branch) in found.items()
        ], [sum(column) for column in columns]

    def follow(self, tokens: Sequence[int]) -> None:
        """A step in flight verifies these: the live path that begins with them is chosen."""
        for branch in self._live.values():
            if branch.tokens[: len(tokens)] == tokens:
                self._set_chosen(branch)
                return

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        self._stats.learn(self.acceptance[:num_drafted], num_accepted)

    def committed(self, tokens: Sequence[int], end: int, *, keep: bool = False) -> None:
        """Each path lives on if it agrees with all of `tokens`, else it dies.

        If the chosen one dies another takes its place at once, if there is one.
        """
        start = end - len(tokens)
        before, num_before = self._chosen, len(self.tokens)
        for branch in list(self._live.values()):
            num_agreed = common_prefix(branch.tokens, tokens)
            if num_agreed < min(len(tokens), len(branch.tokens)):
                self._kill(branch.epoch, start + num_agreed)
            else:
                branch.drop(num_agreed)
        self._choose(keep=keep)
        self.rejection = None
        if before and num_before and before.epoch not in self._live:
            self.rejection = Rejection.of(self._chosen is not None, bool(self.tokens))

    def _take(self, block: DraftBlock, committed: Sequence[int], now: float) -> Branch | None:
        """The block's epoch with the block in it, if that lives."""
        branch = self._live.get(block.epoch)
        begins_anew = branch is None and not block.parent and block.epoch > self._root
        branch = branch or self._begin(block, len(committed))
        if branch is None:
            return None
        self._stats.arrived(block, now, begins_epoch=begins_anew)
        end = len(committed) + len(branch.tokens)
        if block.position > end:
            raise ProtocolError(
                f"draft block starts at position {block.position} but the stream ends at {end}: "
                "send the tokens between, or start a new epoch"
            )
        contradicted = self._extend(branch, block, committed)
        self._check_room(len(branch.tokens))
        if contradicted is None:
            return branch
        self._kill(block.epoch, contradicted)
        return None

    def _begin(self, block: DraftBlock, num_committed: int) -> Branch | None:
        """An epoch not known as live: None if it is dead or older than what lives."""
        if block.epoch <= self._root or block.epoch in self._dead:
            return None
        if not block.parent:  # it replaces all that waits
            self._root = block.epoch
            self._live.clear()
            self._dead.clear()
            branch = Branch(block.epoch, [], array("d"))
        elif parent := self._live.get(block.parent):
            num_shared = max(0, block.position - num_committed)
            # A gap, if it begins behind its parent's end: as of any other block.
            branch = Branch(block.epoch, parent.tokens[:num_shared], parent.acceptance[:num_shared])
        elif block.position <= self._dead.get(block.parent, -1):
            branch = Branch(block.epoch, [], array("d"))
        else:
            self._kill(block.epoch, self._dead.get(block.parent, -1))
            return None
        self._live[block.epoch] = branch
        return branch

    def _extend(self, branch: Branch, block: DraftBlock, committed: Sequence[int]) -> int | None:
        """Append what is new in the block; the position where it contradicts what is committed."""
        start = len(committed)
        end = start + len(branch.tokens)
        for offset, token in enumerate(block.tokens):
            position = block.position + offset
            if position < start:
                if token != committed[position]:
                    return position
            elif position < end:
                if token != branch.tokens[position - start]:
                    raise ProtocolError(
                        f"draft block rewrites position {position} inside epoch {block.epoch}: "
                        "start a new epoch"
                    )
            else:
                branch.tokens.append(token)
                branch.acceptance.append(block.acceptance[offset])
        return None

    def _choose(self, *, keep: bool) -> None:
        """The path that is to be verified: of which most tokens can be expected to be accepted."""
        live = self._live
        chosen = self._chosen
        if not keep or chosen is None or live.get(chosen.epoch) is not chosen:
            if len(live) > 1:
                calibration = self._stats.calibration
                chosen = max(live.values(), key=lambda branch: branch.expected(calibration))
            else:
                chosen = next(iter(live.values()), None)
        self._set_chosen(chosen)

    def _set_chosen(self, chosen: Branch | None) -> None:
        self._chosen = chosen
        self.tokens = chosen.tokens if chosen else []
        self.acceptance = chosen.acceptance if chosen else array("d")

    def _check_room(self, num_waiting: int) -> None:
        if num_waiting > self._max_window:
            raise ProtocolError(
                f"{num_waiting} draft tokens are waiting but at most {self._max_window} may: "
                "keep to the window of the last directive"
            )

    def _kill(self, epoch: int, position: int) -> None:
        self._live.pop(epoch, None)
        self._dead[epoch] = position
        if len(self._dead) > _MAX_DEAD:
            del self._dead[next(iter(self._dead))]
