"""The production verifier: vLLM behind `wisp.verifier.base.Verifier`. vLLM is imported here alone.

driver      one EngineCore step for each batch
requests    sessions as resident vLLM requests
params      what vLLM is told of a request
launched    the choices of a step, from their making to the host
parking     whose KV is in host memory, and which blocks are copied
host_slots  which slot of host memory keeps which block
host_kv     these slots, and the copies between them and the KV blocks (block_copy, on a GPU)
scheduler   vLLM's scheduler, told by WISP who takes part with how many tokens
own_kv      how far the own drafter's KV of each request is
own_proposer  vLLM's proposer as that drafter, for chosen requests, with our noise
own_head    an EAGLE-3 head or MTP layers as that drafter
own_passes  its passes, each one launch; own_chain also what is between them
worker      what the engine calls in vLLM's workers
sampler     law 1 inside them: the choice of wisp.sampling
structures  answers that keep to a JSON schema, an expression or a grammar
compiling   their grammars, in processes with a limit of time and memory (grammar_process)
adapters    LoRA modules that are served beside the target
graphs      CUDA graphs of steps with a drafter beside the target
start       the start of vLLM's engine
options     vLLM's engine arguments: what WISP owns, what passes through
draft_model  a drafter of an edge: numbered slots of texts, many in a batched step
draft_scheduler  vLLM's scheduler for it: texts that go back
draft_worker  the rankings of its logits, inside vLLM's workers
versions    the versions that are supported, and every name that differs between them
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wisp.verifier.vllm.draft_model import DraftModel
    from wisp.verifier.vllm.driver import VllmVerifier


def load(*args: Any, **kwargs: Any) -> VllmVerifier:
    """A VllmVerifier. Raises ConfigError if no vLLM of a supported version is installed."""
    from wisp.verifier.vllm import versions

    versions.prepare()
    from wisp.verifier.vllm.driver import VllmVerifier

    return VllmVerifier(*args, **kwargs)


def load_drafter(*args: Any, **kwargs: Any) -> DraftModel:
    """A DraftModel. Raises ConfigError if no vLLM of a supported version is installed."""
    from wisp.verifier.vllm import versions

    versions.prepare()
    from wisp.verifier.vllm.draft_model import DraftModel

    return DraftModel(*args, **kwargs)
