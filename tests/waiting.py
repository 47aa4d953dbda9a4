"""Waiting for what another process does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

PAUSE_S = 0.05  # chosen: the cores belong to the processes under test nearly all of the time
TIMEOUT_S = 120.0  # chosen: within pytest's own time-out, so that the test says what it waited for


async def wait_on_the_loop(holds: Callable[[], bool], what: str) -> None:
    """As `wait_until`, for what goes on meanwhile in this process."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not holds():  # noqa: ASYNC110  # nobody sets an event for it
                await asyncio.sleep(PAUSE_S)
    except TimeoutError:
        pytest.fail(f"waited in vain for {TIMEOUT_S:g} s until {what}")


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Ask until it holds: a process tells nobody when its state changes, so it has to be asked."""
    end_s = time.monotonic() + TIMEOUT_S
    while not holds():
        if time.monotonic() > end_s:
            pytest.fail(f"waited in vain for {TIMEOUT_S:g} s until {what}")
        time.sleep(PAUSE_S)
