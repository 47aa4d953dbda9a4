"""How a WISP process begins, says that it is ready, and is asked to end."""

from __future__ import annotations

import asyncio
import json
import logging
import signal

from wisp import __version__


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    return event


def announce(program: str, **facts: str | int) -> None:
    """One line of JSON on standard output: the process serves, and where.

    Whoever started it (a test, `wisp demo`, a supervisor) reads the ports from here.
    """
    print(json.dumps({"ready": program, "version": __version__, **facts}), flush=True)


def log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
