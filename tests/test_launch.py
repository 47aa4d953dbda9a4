"""How processes begin and end, and what systemd is told of it, over a socket like its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wisp.launch import Process, StopSignal, announce, feed_watchdog


@pytest.fixture(params=["/", "@"])
def supervisor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A path, or a name of Linux' abstract namespace."""
    address = str(tmp_path / "notify") if request.param == "/" else f"@wisp-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0"))
        listening.settimeout(10.0)
        yield listening


async def test_systemd_hears_of_start_and_stop(
    supervisor: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    announce("wisp-edge", http=1)
    assert supervisor.recv(100) == b"READY=1"
    assert '"ready": "wisp-edge"' in capsys.readouterr().out
    stop = StopSignal()
    os.kill(os.getpid(), signal.SIGTERM)
    await stop.asked.wait()
    assert supervisor.recv(100) == b"STOPPING=1"


async def test_the_watchdog_is_fed_while_the_loop_turns(
    supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    feeding = asyncio.create_task(feed_watchdog())
    for _ in range(3):
        assert await asyncio.to_thread(supervisor.recv, 100) == b"WATCHDOG=1"
    feeding.cancel()


async def test_a_supervisor_that_does_not_listen_keeps_nobody_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    announce("wisp-edge")
    stop = StopSignal()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        await stop.asked.wait()
    assert "systemd cannot be told STOPPING=1" in caplog.text


async def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    announce("wisp-edge")
    async with asyncio.timeout(10):
        await feed_watchdog()


def test_a_process_that_nobody_waits_for_any_more_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when whoever starts it is ended meanwhile: else a server would go on without an owner."""
    started = tmp_path / "started"
    os.mkfifo(started)
    (tmp_path / "silent.py").write_text(
        f"import os, signal\nopen({str(started)!r}, 'w').write(str(os.getpid()))\nsignal.pause()\n"
    )
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGUSR1, _give_up)
    pids: list[int] = []

    def interrupt() -> None:
        pids.append(int(started.read_text()))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Process("server", module="silent")
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def _give_up(*_: object) -> None:
    raise KeyboardInterrupt
