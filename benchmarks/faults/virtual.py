"""An event loop whose time passes at once, so that hours of faults take minutes."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import pytest

from wisp.testing.clock import VirtualClock

Result = TypeVar("Result")


class _Selector(selectors.SelectSelector):
    """There is nothing to wait for but time."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing will ever happen")
        self._clock.now += max(0.0, timeout)
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_Selector(clock))
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """At once, and in this thread: threads know no virtual time."""
        done = self.create_future()
        done.set_result(func(*args))
        return done


class Inline(Executor):
    """What a thread would do is done at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(func(*args, **kwargs))
        return done


def run(body: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Everything that asks for the time is told the virtual one."""
    clock = VirtualClock()
    clock.now = 1000.0
    loop = _Loop(clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", clock)
        patch.setattr("wisp.edge.drafting.ThreadPoolExecutor", Inline)
        try:
            asyncio.set_event_loop(loop)
            return loop.run_until_complete(body())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
