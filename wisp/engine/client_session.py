"""One session of the engine as the front sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from wisp.core.drafts import DraftBlock, Verdict
from wisp.engine.messages import Draft, Open
from wisp.errors import WispError

if TYPE_CHECKING:
    from wisp.engine.client import EngineClient

# Verdicts that a session may have unread before it waits for its reader. Chosen: seconds of text at
# any rate that people read at, and little memory.
_MAX_UNREAD = 64


class EngineSession:
    """One session as the front sees it: verdicts come out, drafts go in.

    It ends exactly once: by a verdict with a finish reason, by an error, or by `close`.
    """

    def __init__(self, client: EngineClient, message: Open) -> None:
        self.id = message.session_id
        self.priority = message.slo.priority
        self.owner = message.owner
        self._client = client
        self._inbox: asyncio.Queue[Verdict | WispError] = asyncio.Queue()
        self._held = False
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[Verdict]:
        while not self._ended:
            item = await self._inbox.get()
            if self._held and self._inbox.qsize() <= _MAX_UNREAD // 2:
                self._hold(held=False)
            if isinstance(item, WispError):
                self._ended = True
                raise item
            self._ended = item.finish_reason is not None
            yield item

    def draft(self, block: DraftBlock) -> None:
        self._client.send(Draft(self.id, block, time.monotonic()))

    def close(self) -> None:
        """Free the session; may be called twice."""
        self._ended = True
        self._client.forget(self)

    def fail(self, error: WispError) -> None:
        """End the session with an error that the front found."""
        self._client.forget(self)
        self.put(error)

    def put(self, item: Verdict | WispError) -> None:
        self._inbox.put_nowait(item)
        if not self._held and self._inbox.qsize() > _MAX_UNREAD:
            self._hold(held=True)

    def _hold(self, *, held: bool) -> None:
        self._held = held
        self._client.hold(self, held=held)
