"""Draft blocks that wait for the next time at which an edge may send. Pure: no I/O, no clock."""

from __future__ import annotations

from collections import deque

from msgspec import structs

from wisp import wire
from wisp.core.drafts import DraftBlock
from wisp.padding import Padding
from wisp.v1 import wisp_pb2 as pb


class Pending:
    """One message takes as many of them as it has room for."""

    def __init__(self, padding: Padding) -> None:
        self._padding = padding
        self._blocks: deque[DraftBlock] = deque()

    def add(self, block: DraftBlock) -> None:
        """Of a new epoch without a parent: what waits is drafted for a text that is none."""
        if not block.parent:
            while self._blocks and self._blocks[-1].epoch < block.epoch:
                self._blocks.pop()
        self._blocks.append(block)

    def take(self) -> pb.EdgeMessage:
        """The next message, padded; with nothing that waits it holds padding alone."""
        if not self._blocks:
            return self._padding.pad(pb.EdgeMessage())
        block = self._blocks.popleft()
        message = wire.encode_draft(block)
        while self._blocks and _follows(block, self._blocks[0]):
            block = _joined(block, self._blocks[0])
            longer = wire.encode_draft(block)
            if not self._padding.fits(longer):
                break
            message = longer
            self._blocks.popleft()
        return self._padding.pad(message)


def _follows(block: DraftBlock, other: DraftBlock) -> bool:
    return other.epoch == block.epoch and other.position == block.position + len(block.tokens)


def _joined(block: DraftBlock, other: DraftBlock) -> DraftBlock:
    return structs.replace(
        block,
        tokens=block.tokens + other.tokens,
        acceptance=block.acceptance + other.acceptance,
        draft_time_s=block.draft_time_s + other.draft_time_s,
        complete=other.complete,
        forks=block.forks + other.forks,
    )
