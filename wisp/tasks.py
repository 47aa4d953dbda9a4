"""Tasks that live beside their owner, which awaits none of them: no failure of one is only lost."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


def begin(
    work: Callable[[], Awaitable[None]],
    failed: str,
    on_failure: Callable[[], object] = lambda: None,
) -> asyncio.Task[None]:
    """Work that must not fail. Should it, the log says `failed` and why, and `on_failure` tells
    whoever would wait for it."""

    async def run() -> None:
        try:
            await work()
        except Exception:
            log.exception(failed)
            on_failure()

    return asyncio.create_task(run())


def every(period_s: float, do: Callable[[], object], failed: str) -> asyncio.Task[None]:
    """Do something again and again, though it may fail: the log says `failed` and why each time.

    `do` may return an awaitable.
    """

    async def run() -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                done = do()
                if inspect.isawaitable(done):
                    await done
            except Exception:
                log.exception("%s: it is tried again in %g s", failed, period_s)

    return asyncio.create_task(run())
