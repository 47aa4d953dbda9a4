"""Tasks that nobody awaits: what fails in one is heard of."""

from __future__ import annotations

import asyncio

import pytest

from wisp.tasks import begin, every


async def test_a_failure_is_logged_and_told_to_whoever_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lost = asyncio.Event()

    async def work() -> None:
        raise ValueError("torn")

    await begin(work, "nothing is read any more", lost.set)
    assert lost.is_set()
    assert "nothing is read any more" in caplog.text
    assert "ValueError: torn" in caplog.text


async def test_an_end_that_was_asked_for_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    lost = asyncio.Event()
    for has_begun in (False, True):
        task = begin(asyncio.Event().wait, "it has failed", lost.set)  # type: ignore[arg-type]
        if has_begun:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert not lost.is_set()
    assert caplog.text == ""


async def test_what_is_done_again_and_again_is_done_though_it_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done = asyncio.Event()
    failures = [OSError("first"), ValueError("second")]

    async def keep() -> None:
        if failures:
            raise failures.pop(0)
        done.set()

    task = every(0.001, keep, "it could not be kept")
    async with asyncio.timeout(10):
        await done.wait()
    task.cancel()
    assert caplog.text.count("it could not be kept: it is tried again in 0.001 s") == 2
    assert "OSError: first" in caplog.text
