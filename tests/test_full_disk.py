"""A full disk costs what could not be written, and no text: each writer, on files that refuse."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.faults.disk import Disk
from tests.edge.synthetic import labels, overconfident
from tests.estimator.known import steps
from tests.waiting import wait_until
from wisp import cli
from wisp.access.gate import Gate
from wisp.access.keys import KeyRecord, add, revoke
from wisp.certs import Authority
from wisp.config import TINY, EdgeConfig
from wisp.edge.learning import Learning
from wisp.engine.client import EngineClient
from wisp.engine.keeper import Keeper
from wisp.errors import ConfigError, NotAuthenticated
from wisp.estimator.step_time import StepTimeEstimator
from wisp.estimator.store import Key, load

KEY = Key(model="scripted", gpu="none", engine="scripted")


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.clear()


def test_the_disk_is_full_for_all_of_this_process(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(b"x" * 10)
    disk.fill(5)
    with pytest.raises(OSError, match="large"):
        (tmp_path / "after").write_bytes(b"x" * 10)
    assert disk.full
    disk.clear()
    assert (tmp_path / "after").stat().st_size == 5  # a half, as a full disk leaves it


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def save_step_times(folder: Path) -> Callable[[], None]:
    keeper = Keeper(StepTimeEstimator(), folder, KEY)

    def save() -> None:
        for shape, time_s in steps(64, 1):
            keeper.estimator.observe(shape, time_s)
        keeper.save()

    return save


def save_what_an_edge_learned(folder: Path) -> Callable[[], None]:
    learning = Learning(EdgeConfig(state_dir=folder))
    learning.know_target("a target")

    def save() -> None:
        for label in labels(20, 0, overconfident):
            learning.predictor.learn(label)
        learning.save()

    return save


def make_a_key(folder: Path) -> Callable[[], None]:
    numbers = iter(range(100))
    return lambda: _told(lambda: add(folder / "keys", KeyRecord(name=f"{next(numbers)}")))


def revoke_a_key(folder: Path) -> Callable[[], None]:
    numbers = iter(range(100))
    return lambda: _told(lambda: revoke(folder / "keys", f"{next(numbers)}"))


def renew_a_certificate(folder: Path) -> Callable[[], None]:
    authority = Authority(folder)
    return lambda: _told(lambda: authority.issue("server", ["localhost"]))


def _told(write: Callable[[], object]) -> None:
    """Whoever asked for it gets a sentence; a server never does this."""
    with contextlib.suppress(ConfigError):
        write()


@pytest.mark.parametrize("max_bytes", [0, 1, 50])
@pytest.mark.parametrize(
    "writer",
    [
        save_step_times,
        save_what_an_edge_learned,
        make_a_key,
        revoke_a_key,
        renew_a_certificate,
    ],
)
def test_what_was_there_stays_and_the_next_time_it_is_written(
    disk: Disk, tmp_path: Path, writer: Callable[[Path], Callable[[], None]], max_bytes: int
) -> None:
    write = writer(tmp_path)
    write()
    before = everything_in(tmp_path)
    assert before
    disk.fill(max_bytes)
    write()
    disk.clear()
    assert everything_in(tmp_path) == before
    write()
    assert everything_in(tmp_path) != before


def test_step_times_that_could_not_be_saved_are_saved_at_the_end(
    disk: Disk, tmp_path: Path
) -> None:
    """Though nothing more was learned in between."""
    keeper = Keeper(StepTimeEstimator(), tmp_path, KEY)
    for shape, time_s in steps(64, 1):
        keeper.estimator.observe(shape, time_s)
    disk.fill(0)
    keeper.save()
    disk.clear()
    assert load(tmp_path, KEY) is None
    keeper.save()
    assert load(tmp_path, KEY) is not None


def test_rounds_that_cannot_be_logged_cost_nothing_but_the_log(disk: Disk, tmp_path: Path) -> None:
    config = EdgeConfig(log_rounds=tmp_path / "rounds")
    learning = Learning(config)
    learning.know_target("a target")
    disk.fill(100)
    for label in labels(1000, 0, overconfident):
        learning.predictor.learn(label)
    learning.close()
    assert learning.known.num_labels == 1000
    disk.clear()
    again = Learning(config)  # behind half a line
    again.know_target("a target")
    again.close()
    assert (tmp_path / "rounds").read_bytes().endswith(b'"a target","draft":"draft"}\n')


def test_a_file_of_keys_that_was_emptied_shuts_nobody_out(tmp_path: Path) -> None:
    """As an editor leaves it that begins to write on a full disk."""
    path = tmp_path / "keys"
    key = add(path, KeyRecord(name="mine"))
    gate = Gate(path)
    path.write_bytes(b"")
    assert not gate.reload()
    assert gate.caller(f"Bearer {key}").name == "mine"
    revoke(path, "mine")
    assert gate.reload()
    with pytest.raises(NotAuthenticated):
        gate.caller(f"Bearer {key}")


async def test_no_place_for_a_socket_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with pytest.raises(ConfigError, match="socket: No space left"):
        await EngineClient().start(lambda: pytest.fail("it is not built"), "INFO")


def test_a_command_that_finds_the_disk_full_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli, "_demo", full)
    monkeypatch.setattr(sys, "argv", ["wisp", "demo"])
    assert cli.main() == 2
    assert capsys.readouterr().err == "wisp demo: the disk is full: make room and try again\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def refuse_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_a_server_on_a_full_disk_serves(tmp_path: Path) -> None:
    """Its output and its log go to a device that is always full, and no file can be written."""
    port = free_port()
    flags = [f"--http.port={port}", "--grpc.port=0", f"--estimator.state_dir={tmp_path}"]
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "wisp.cli", "server", f"--target={TINY / 'target'}", *flags],
            stdout=full,
            stderr=full,
            preexec_fn=refuse_files,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=30) as client:

            def ready() -> bool:
                assert process.poll() is None
                try:
                    return client.get("/ready").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(ready, "it serves")
            asked = {"model": "target", "prompt": "a", "max_tokens": 20}
            answer = client.post("/v1/completions", json=asked)
        assert answer.json()["usage"]["completion_tokens"] == 20
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.iterdir()) == []
