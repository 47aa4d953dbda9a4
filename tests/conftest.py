"""Real processes for the tests that go over real sockets, started once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wisp.launch import Process

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, a core each


# Files that take 25 s to 4 min, the longest first, as measured on two cores (machine C of
# docs/measurements/README.md). Together they are about 1,000 of the 1,200 s that all files take.
BEGUN_FIRST = (
    "test_lossless.py",
    "test_losses.py",
    "test_processes.py",
    "benchmarks/test_faults.py",
    "test_ends.py",
    "test_starts.py",
    "test_demo.py",
    "benchmarks/sim/test_capacity.py",
    "verifier/test_own_drafts.py",
    "test_texts.py",
    "server/test_grpc.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where files run side by side, the last one to end is then a short one."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(BEGUN_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session", autouse=True)
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers that tests start know nothing of this machine, and leave nothing on it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("WISP_SERVER_ESTIMATOR__STATE_DIR", str(folder))
        yield


@pytest.fixture(scope="session")
def server(logs: Path) -> Iterator[Process]:
    with start_server(logs) as process:
        yield process


@pytest.fixture(scope="session")
def patient_server(logs: Path) -> Iterator[Process]:
    """Drafts are in time however busy the machine is: it waits for them.

    Its policy waits for a block until the next token is due, and none is due for 100 seconds.
    """
    slow = ("--slo.tokens_per_s=0.01", "--slo.first_token_s=100")
    with start_server(logs, "--scheduling.policy=fcfs", *slow) as process:
        yield process


@pytest.fixture(scope="session")
def edge(server: Process, logs: Path) -> Iterator[Process]:
    with start_edge(server, logs) as process:
        yield process


def start_server(logs: Path, *flags: str) -> Process:
    return Process("server", "--http.port=0", "--grpc.port=0", *flags, log=logs / "server")


def start_edge(server: Process, logs: Path, *flags: str) -> Process:
    address = f"--server=127.0.0.1:{server.facts['grpc']}"
    return Process("edge", address, "--http.port=0", *flags, log=logs / "edge")
