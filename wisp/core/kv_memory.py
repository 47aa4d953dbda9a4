"""What a target has of KV memory. A session's KV is in it, parked in host memory, or nowhere."""

from __future__ import annotations

from typing import NamedTuple

from wisp.core.session import Session


class KvMemory(NamedTuple):
    """In blocks: the units in which a target gives out KV memory."""

    block_tokens: int
    num_free: int
    num_parkable: int = 0  # blocks for which host memory has room; 0 where nothing can be parked
    host_block_tokens: int = 1  # of such a block

    def num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_tokens)

    def num_held(self, session: Session) -> int:
        return self.num_blocks(session.num_computed) if session.resident else 0

    def num_to_park(self, session: Session) -> int:
        """Blocks of host memory that its KV takes."""
        return -(-session.num_computed // self.host_block_tokens)

    def num_wanted(self, session: Session) -> int:
        """For all that is known of its text and its next block, beside what it holds.

        The block more is there so that who is let in need not give way to another's next token.
        """
        num_known = len(session.tokens) + session.num_pending
        more = 1 if self.num_blocks(session.end) > self.num_blocks(num_known) else 0
        return max(0, self.num_blocks(num_known) + more - self.num_held(session))
