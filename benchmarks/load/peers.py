"""What users would pick instead: vLLM's own server, with and without speculation on the GPU.

Each name is that of a part of the suite and of its rows. `vllm` is the server as its users start
it; `vllm-draft-K` has a small draft model beside the target, which drafts K tokens a step, of which
as many are right as of the edges' (`rejection_sample_method: "synthetic"`), and `vllm-eagle-K` an
EAGLE-3 head of the target's width that does as well; `vllm-ngram-K` looks
its drafts up in the prompt and the answer. There the text is the predictable target's, in which
nothing repeats: so it shows what n-gram speculation costs where nothing can be found.
`vllm-offload` keeps KV that was evicted in host memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.load.campaign import PLAIN
from benchmarks.load.target import drafter_of, write_config, write_head
from benchmarks.load.texts import acceptance_rates

_DRAFT, _HEAD, _NGRAM = "vllm-draft-", "vllm-eagle-", "vllm-ngram-"
# Two drafts lose the least where nothing is right, six gain the most where much is: vLLM's own
# examples lie between.
DRAFT_PEERS = tuple(f"{_DRAFT}{count}" for count in (2, 4, 6))
HEAD_PEERS = (f"{_HEAD}4",)
NGRAM_PEERS = (f"{_NGRAM}4",)
OFFLOAD_PEER = "vllm-offload"
PEERS = (PLAIN, *DRAFT_PEERS, *HEAD_PEERS, *NGRAM_PEERS, OFFLOAD_PEER)
# GiB of host memory for KV, of vLLM as of WISP. Chosen: half of what a machine of one H100 has.
HOST_KV_GIB = 64
# Of the lookup: what the examples in vLLM's documentation have.
_NGRAM_SIZES = {"prompt_lookup_max": 5, "prompt_lookup_min": 2}


def is_predictable(peer: str) -> bool:
    """Its text matters, not only its time: it has to be the predictable target's. Or a head's
    weights are made up, which vLLM itself does for whole models only."""
    return peer.startswith((_NGRAM, _HEAD))


def speculation(peer: str, shape: str, acceptance: float, folder: Path) -> dict[str, Any] | None:
    """vLLM's `speculative_config`; None: it does not speculate. The drafter goes into `folder`."""
    if peer in (PLAIN, OFFLOAD_PEER):
        return None
    if peer.startswith(_NGRAM):
        count = int(peer.removeprefix(_NGRAM))
        return {"method": "ngram", "num_speculative_tokens": count, **_NGRAM_SIZES}
    if peer.startswith(_HEAD):
        count, method = int(peer.removeprefix(_HEAD)), "eagle3"
        drafter = write_head(folder / "drafter", shape)
    else:
        count, method = int(peer.removeprefix(_DRAFT)), "draft_model"
        drafter = write_config(folder / "drafter", drafter_of(shape), shape)
    return {
        "method": method,
        "model": str(drafter),
        "num_speculative_tokens": count,
        "rejection_sample_method": "synthetic",
        "synthetic_acceptance_rates": acceptance_rates(acceptance, count),
    }
