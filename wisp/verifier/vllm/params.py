"""What vLLM is told of a request: the least of its own sampling, and ours as an extra."""

from __future__ import annotations

from vllm.sampling_params import SamplingParams

from wisp.core.request import Sampling
from wisp.sampling.processors import needs_processing
from wisp.verifier.vllm.structures import params_of

# The keys of `extra_args`, which reach every worker beside the request.
SAMPLING = "wisp_sampling"
NUM_PROMPT = "wisp_num_prompt"
SLOW = "wisp_slow"  # its rows need more than noise: processors, logprobs


def sampling_params(sampling: Sampling, num_prompt: int, max_model_len: int) -> SamplingParams:
    """Without any stop: WISP's session decides when it ends, and closes it.

    Raises BadRequest if the structure of the answer is not valid.
    """
    return SamplingParams(
        temperature=0.0,
        structured_outputs=params_of(sampling.structure) if sampling.structure else None,
        max_tokens=max_model_len,
        ignore_eos=True,
        detokenize=False,
        extra_args={
            SAMPLING: sampling,
            NUM_PROMPT: num_prompt,
            SLOW: is_slow(sampling),
        },
    )


def is_slow(sampling: Sampling) -> bool:
    """Its choices are made with the host's help, which waits for the forward."""
    return needs_processing(sampling) or sampling.num_logprobs is not None
