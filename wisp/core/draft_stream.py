"""The server's end of one draft stream: what an edge proposes, addressed by position."""

from __future__ import annotations

from collections.abc import Sequence

from wisp.core.drafts import DraftBlock, Drafts, Source
from wisp.core.edge_stats import EdgeStats
from wisp.errors import ProtocolError


class DraftStream(Drafts):
    """The live epoch of an edge's drafts.

    Duplicates, late and reordered blocks are decided by (epoch, position, equality with what is
    committed), so handling a block twice changes nothing.
    """

    source = Source.EDGE

    def __init__(self, stats: EdgeStats, max_window: int, now: float) -> None:
        super().__init__()
        self.complete = False  # the edge waits for a verdict on these drafts
        self.arrived_s = now  # when the last block came that left drafts here
        self._stats = stats
        self._max_window = max_window
        self._epoch = 0
        self._is_dead = False  # what is committed contradicts the epoch

    @property
    def calibration(self) -> float:
        return self._stats.calibration

    def offer(self, block: DraftBlock, committed: Sequence[int], now: float) -> bool:
        """Take a block in; false if it is of a dead epoch.

        Raises ProtocolError on a gap, on a rewrite inside one epoch, and beyond `max_window`.
        """
        self._check_room(len(block.tokens))  # of a stale block, too: it is refused at any moment
        if block.epoch < self._epoch or (block.epoch == self._epoch and self._is_dead):
            return False
        begins_epoch = block.epoch > self._epoch
        self._stats.arrived(block, now, begins_epoch=begins_epoch)
        if begins_epoch:
            self._epoch, self._is_dead = block.epoch, False
            self._clear()
        end = len(committed) + len(self.tokens)
        if block.position > end:
            raise ProtocolError(
                f"draft block starts at position {block.position} but the stream ends at {end}: "
                "send the tokens between, or start a new epoch"
            )
        if self._extend(block, committed):
            self._check_room(len(self.tokens))
            if self.tokens:
                self.complete, self.arrived_s = block.complete, now
        else:
            self._kill()
        return True

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        self._stats.learn(self.acceptance[:num_drafted], num_accepted)

    def committed(self, tokens: list[int]) -> None:
        """The rest of the drafts lives on if it agrees with all of `tokens`, else all die."""
        num_both = min(len(tokens), len(self.tokens))
        if self.tokens[:num_both] != tokens[:num_both]:
            self._kill()
        elif len(tokens) >= len(self.tokens):
            self._clear()
        else:
            del self.tokens[:num_both], self.acceptance[:num_both]

    def _extend(self, block: DraftBlock, committed: Sequence[int]) -> bool:
        """Append what is new in the block; false if it contradicts what is committed."""
        start = len(committed)
        end = start + len(self.tokens)
        for offset, token in enumerate(block.tokens):
            position = block.position + offset
            if position < start:
                if token != committed[position]:
                    return False
            elif position < end:
                if token != self.tokens[position - start]:
                    raise ProtocolError(
                        f"draft block rewrites position {position} inside epoch {block.epoch}: "
                        "start a new epoch"
                    )
            else:
                self.tokens.append(token)
                self.acceptance.append(block.acceptance[offset])
        return True

    def _check_room(self, num_waiting: int) -> None:
        if num_waiting > self._max_window:
            raise ProtocolError(
                f"{num_waiting} draft tokens are waiting but at most {self._max_window} may: "
                "keep to the window of the last directive"
            )

    def _kill(self) -> None:
        self._is_dead = True
        self._clear()

    def _clear(self) -> None:
        self.tokens.clear()
        del self.acceptance[:]
        self.complete = False
