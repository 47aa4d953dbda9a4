"""How a WISP process begins, says that it is ready, and is asked to end: from inside and outside.

Child processes are started by the demo, the benchmarks and the tests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from wisp import __version__
from wisp.errors import Unavailable

Program = Literal["server", "edge"]
log = logging.getLogger(__name__)


class StopSignal:
    """SIGTERM and SIGINT: the first asks for an orderly end, the second for one at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._came)

    def _came(self) -> None:
        notify("STOPPING=1")
        (self.hurry if self.asked.is_set() else self.asked).set()


async def until_any(*events: asyncio.Event, timeout_s: float | None = None) -> None:
    """Wait until one of them is set, or for `timeout_s`."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def announce(program: str, **facts: str | int) -> None:
    """One line of JSON on standard output: the process serves, and where.

    Whoever started it (a test, `wisp demo`, a supervisor) reads the ports from here; systemd is
    told in its own way. Where the line cannot be written, as on a full disk, it serves without.
    """
    try:
        print(json.dumps({"ready": program, "version": __version__, **facts}), flush=True)
    except OSError as error:
        log.warning("%s serves, but cannot say so: %s", program, error)
        give_up_output()
    notify("READY=1")


def give_up_output() -> None:
    """What could not be written to standard output or error is not tried again at the end.

    Python leaves with the code 120 if that fails.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def notify(state: str) -> None:
    """Tell systemd, if it has asked to be told: the protocol of sd_notify(3).

    What cannot be told is logged: whoever serves or stops does so without.
    """
    if address := os.environ.get("NOTIFY_SOCKET"):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
                supervisor.connect(address.replace("@", "\0", 1))  # of the abstract namespace
                supervisor.send(state.encode())
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", state, error)


async def feed_watchdog() -> None:
    """While the event loop turns, for systemd's `WatchdogSec`; returns at once without one."""
    interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    while interval_s:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s / 2)


class Process:
    """A running `wisp server` or `wisp edge`; a context manager that ends it.

    `facts` is what it announced when it was ready: its ports, and the model it serves.
    """

    def __init__(
        self,
        program: Program,
        *flags: str,
        log: Path | None = None,
        ready_timeout_s: float = 120.0,
        module: str = "wisp.cli",
        python: str = sys.executable,
    ) -> None:
        """`module` takes the command line of `wisp`, in the environment of `python`.

        Raises Unavailable with the end of its log if it does not get ready.
        """
        self._log = log
        with open(log or os.devnull, "ab") as errors:
            self._popen = subprocess.Popen(
                [python, "-m", module, program, *flags],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        timer = threading.Timer(ready_timeout_s, self._popen.kill)
        timer.start()
        assert self._popen.stdout
        try:
            line = self._popen.stdout.readline()
        except BaseException:  # nobody waits any more, and nobody else could end it
            self._popen.kill()
            self._popen.wait()
            raise
        finally:
            timer.cancel()
        if not line:
            code = self._popen.wait()
            self._popen.stdout.close()
            said = log.read_text().strip().splitlines()[-1:] if log else []
            raise Unavailable(f"wisp {program} ended with code {code}: {' '.join(said)}")
        self.facts: dict[str, Any] = json.loads(line)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.facts['http']}"

    def alive(self) -> bool:
        return self._popen.poll() is None

    def terminate(self) -> None:
        """Ask it to drain and leave."""
        self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._popen.kill()

    def wait(self, timeout_s: float = 30.0) -> int:
        """Its exit code; kills it if it does not leave in time."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._popen.poll() is None:
            self.terminate()
        self.wait()
        assert self._popen.stdout
        self._popen.stdout.close()
