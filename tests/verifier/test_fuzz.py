"""Sessions that come and go at random on the torch engine.

WISP_FUZZ sets how many, WISP_FUZZ_SEED which.
"""

from __future__ import annotations

import os

from tests.vllm.crowd import Crowd
from wisp.config import TINY
from wisp.core.drafts import Source
from wisp.verifier.own_drafter import OwnDrafter
from wisp.verifier.torch import TorchVerifier

NUM_SESSIONS = int(os.environ.get("WISP_FUZZ", "40"))
SEED = 7 + int(os.environ.get("WISP_FUZZ_SEED", "0"))
MOST = 12  # open at once
HOST_KV_BYTES = 2 << 20  # of less than all of them


def test_crowd_with_drafts_of_all_sources() -> None:
    """Edges', n-gram and own drafts for the same sessions, with KV that is parked and lost."""
    verifier = TorchVerifier(
        TINY / "target",
        max_sessions=MOST,
        max_model_len=512,
        num_threads=1,
        host_kv_bytes=HOST_KV_BYTES,
        drafter=TINY / "draft",
    )
    crowd = Crowd(verifier, SEED, MOST, NUM_SESSIONS, overlapped=False, max_own=5)
    crowd.run()
    assert crowd.num_right + crowd.num_aborted == NUM_SESSIONS
    assert crowd.num_ties == 0
    assert min(crowd.num_accepted[source] for source in Source) > NUM_SESSIONS // 10
    assert crowd.num_parked > 0 < crowd.num_loaded
    assert verifier.kv_used == 0.0
    # Nobody but the verifier knows what its drafter and the host hold.
    drafter, parked = verifier._drafter, verifier._parked
    assert isinstance(drafter, OwnDrafter)
    # As above.
    assert (len(drafter._free), drafter._slots, parked) == (MOST, {}, {})
    print(f"{dict(crowd.num_accepted)} of {dict(crowd.num_drafted)} accepted, ", end="")
    print(f"{crowd.num_parked} parked, {crowd.num_loaded} loaded, {crowd.num_resumed} resumed")
