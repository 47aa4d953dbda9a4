"""How a call ended: what its server said, though a write that came too late may cover it up."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import grpc

from wisp.status import is_refusal


class Ending:
    """The ends that gRPC finds for one call, as they come.

    Where a write meets the end of its call, gRPC's asyncio puts an INTERNAL of its own over the
    status that has come from the server (1.62 to 1.81). A refusal would be taken for a lost line.
    """

    def __init__(self, call: Any) -> None:
        self._found: list[grpc.aio.AioRpcError] = []
        call.add_done_callback(self._add)

    def of(self, failure: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The server's own refusal, if there was one; else the failure itself."""
        return next(filter(is_refusal, self._found), failure)

    def _add(self, call: Any) -> None:
        """The call has an end, perhaps another one."""
        code, details = _at_once(call.code()), _at_once(call.details())
        trailer = _at_once(call.trailing_metadata())
        self._found.append(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailer, details, ""))


def _at_once(known: Coroutine[Any, Any, Any]) -> Any:
    """What need not be waited for any more."""
    try:
        known.send(None)
    except StopIteration as done:
        return done.value
    finally:
        known.close()
    raise AssertionError("a call that is done has its status")
