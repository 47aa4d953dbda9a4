"""Sessions that come and go at random, under too few KV blocks.

WISP_FUZZ sets how many, WISP_FUZZ_SEED which.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.heads import write_head
from tests.vllm.conftest import HOST_KV_BYTES, second_engine
from tests.vllm.crowd import Crowd
from tests.vllm.driver import expected, prompts
from wisp.config import TINY
from wisp.core.drafts import Source
from wisp.core.request import Sampling

NUM_SESSIONS = int(os.environ.get("WISP_FUZZ", "100"))  # of each case
SEED = int(os.environ.get("WISP_FUZZ_SEED", "0"))  # added to each case's own


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("overlapped", [False, True], ids=["one", "overlapped"])
@pytest.mark.parametrize(("most", "num_blocks"), [(64, 599), (24, 20), (12, 8)])
def test_crowd(
    verifier: Any, hoard: Callable[[int], None], most: int, num_blocks: int, overlapped: bool
) -> None:
    scheduler = verifier.scheduler
    hoard(min(num_blocks, scheduler.num_free_blocks))
    num_slots = scheduler.parking.num_free
    free, evictions = scheduler.num_free_blocks, scheduler.num_evictions
    crowd = Crowd(verifier, SEED + most, most, NUM_SESSIONS, overlapped=overlapped)
    crowd.run()
    assert scheduler.num_free_blocks == free
    assert crowd.num_right + crowd.num_ties + crowd.num_aborted == NUM_SESSIONS
    assert crowd.num_ties <= NUM_SESSIONS // 50
    assert bool(crowd.num_ahead) == bool(crowd.num_alternatives) == overlapped
    assert crowd.num_parked > 0 < crowd.num_loaded
    if num_blocks < 100:  # else the prefix cache has all that is found
        assert crowd.num_found > 0
    assert scheduler.parking.num_free == num_slots
    if num_blocks < 100:
        assert scheduler.num_evictions > evictions
    print(f"{vars(crowd)['num_right']} right, {crowd.num_ties} ties, {crowd.num_aborted} aborted,")
    print(f"{crowd.num_ahead} seats before their token was known, ", end="")
    print(f"{crowd.num_alternatives} went on with an alternative, ", end="")
    print(f"{crowd.num_resumed} resumed, {scheduler.num_evictions - evictions} evictions, ", end="")
    print(f"{crowd.num_parked} parked, {crowd.num_loaded} loaded, {crowd.num_found} found")


@pytest.fixture(scope="module")
def drafting() -> Iterator[Any]:
    with second_engine(
        {}, drafter_method="draft_model", drafter=TINY / "draft", host_kv_bytes=HOST_KV_BYTES
    ) as loaded:
        yield loaded


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("overlapped", [False, True], ids=["one", "overlapped"])
@pytest.mark.parametrize(("most", "num_blocks"), [(32, 299), (12, 20)])
def test_crowd_with_drafts_of_all_sources(
    drafting: Any, most: int, num_blocks: int, overlapped: bool
) -> None:
    """Edges', n-gram and own drafts for the same sessions, with KV that is parked and lost."""
    scheduler = drafting.scheduler
    pool = scheduler.kv_cache_manager.block_pool
    scheduler.reset_prefix_cache()
    taken = pool.get_new_blocks(max(0, scheduler.num_free_blocks - num_blocks))
    free, evictions = scheduler.num_free_blocks, scheduler.num_evictions
    crowd = Crowd(drafting, SEED + most, most, NUM_SESSIONS, overlapped=overlapped, max_own=5)
    crowd.run()
    assert scheduler.num_free_blocks == free
    pool.free_blocks(taken)
    assert crowd.num_right + crowd.num_ties + crowd.num_aborted == NUM_SESSIONS
    assert crowd.num_ties <= NUM_SESSIONS // 50
    assert min(crowd.num_accepted[source] for source in Source) > NUM_SESSIONS // 10
    assert bool(crowd.num_coming) == overlapped
    assert crowd.num_parked > 0 < crowd.num_loaded
    if num_blocks < 100:
        assert scheduler.num_evictions > evictions
    print(f"{crowd.num_right} right, {crowd.num_ties} ties, {crowd.num_parked} parked,")
    print(f"{dict(crowd.num_accepted)} of {dict(crowd.num_drafted)} accepted, ", end="")
    print(f"{crowd.num_coming} seats before they were known")


@pytest.mark.timeout(3600)
def test_crowd_with_a_head(tmp_path: Path) -> None:
    """An EAGLE-3 head sees every step, whoever is in it; its KV goes where the target's does."""
    head, num_sessions = write_head(tmp_path), NUM_SESSIONS // 2
    settings: dict[str, Any] = {
        "drafter_method": "eagle3",
        "drafter": head,
        "host_kv_bytes": HOST_KV_BYTES,
    }
    with second_engine({"num_gpu_blocks_override": 21}, **settings) as drafting:
        free = drafting.scheduler.num_free_blocks
        crowd = Crowd(drafting, SEED + 5, 12, num_sessions, overlapped=True, max_own=5)
        crowd.run()
        assert drafting.scheduler.num_free_blocks == free
        assert drafting.scheduler.num_evictions > 0 < crowd.num_coming
    assert crowd.num_right + crowd.num_ties + crowd.num_aborted == num_sessions
    assert crowd.num_ties <= num_sessions // 25
    assert crowd.num_parked > 0 < crowd.num_loaded


def test_expected_texts_are_not_trivial() -> None:
    texts = {tuple(expected(p, Sampling(max_tokens=20, seed=1))) for p in prompts()[:20]}
    assert len(texts) == 20
