"""Law 1 inside vLLM: its model runner makes every choice with wisp.sampling.

vLLM's own sampler is never asked, so its processors see plain greedy requests and do nothing. What
a choice needs travels with the request (`sampling_params.extra_args`), because with tensor
parallelism the workers are other processes. Each rank makes the same choice from the same logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.outputs import SamplerOutput

from wisp.core import Sampling, TokenLogprob
from wisp.sampling.accept import num_accepted
from wisp.sampling.choice import choose
from wisp.sampling.processors import Row

_SAMPLING = "wisp_sampling"
_NUM_PROMPT = "wisp_num_prompt"
_NO_TOKEN = -1  # vLLM's mark behind the last token of a row


def sampling_params(sampling: Sampling, num_prompt: int, max_model_len: int) -> SamplingParams:
    """Without any stop: WISP's session decides when it ends, and closes it."""
    return SamplingParams(
        temperature=0.0,
        max_tokens=max_model_len,
        ignore_eos=True,
        detokenize=False,
        extra_args={_SAMPLING: sampling, _NUM_PROMPT: num_prompt},
    )


class WorkerExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`); called by `collective_rpc`."""

    model_runner: Any

    def wisp_install(self) -> None:
        self.wisp_chooser = Chooser(self.model_runner)
        self.model_runner._sample = self.wisp_chooser

    def wisp_logprobs(self) -> dict[str, list[TokenLogprob]]:
        """Of the last step, by request id: one for each token that it committed."""
        return self.wisp_chooser.logprobs


class Chooser:
    """Stands in for the model runner's `_sample`."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.logprobs: dict[str, list[TokenLogprob]] = {}

    def __call__(self, logits: Tensor, spec_decode_metadata: Any) -> SamplerOutput:
        """logits: [rows, vocab]; a request with k draft tokens has k + 1 rows, in batch order."""
        batch = self._runner.input_batch
        num_drafts = [0] * batch.num_reqs
        if spec_decode_metadata is not None:
            num_drafts = spec_decode_metadata.num_draft_tokens
        unfinished = self._runner.discard_request_mask.np[: batch.num_reqs].tolist()
        rows: list[Row] = []
        places: list[int] = []  # of each row, in the logits
        end = 0
        for index, count in enumerate(num_drafts):
            first, end = end, end + count + 1
            if not unfinished[index]:  # else it ends inside the prompt and chooses nothing
                rows += self._rows(index, count)
                places += range(first, end)
        chosen = logits if len(places) == len(logits) else logits[places]
        choices, logprobs = choose(chosen, rows)
        return self._output(num_drafts, unfinished, choices, logprobs)

    def _rows(self, index: int, num_drafts: int) -> list[Row]:
        batch = self._runner.input_batch
        extra = self._runner.requests[batch.req_ids[index]].sampling_params.extra_args
        length = int(batch.num_tokens_no_spec[index])
        tokens = batch.token_ids_cpu[index, : length + num_drafts]  # the draft lies behind
        return [
            Row(extra[_SAMPLING], tokens, extra[_NUM_PROMPT], position)
            for position in range(length, length + num_drafts + 1)
        ]

    def _output(
        self,
        num_drafts: list[int],
        unfinished: list[bool],
        choices: list[int],
        logprobs: list[TokenLogprob | None],
    ) -> SamplerOutput:
        batch = self._runner.input_batch
        tokens = torch.full((len(num_drafts), max(num_drafts) + 1), _NO_TOKEN)  # on the CPU
        self.logprobs = {}
        end = 0
        for index, count in enumerate(num_drafts):
            if unfinished[index]:
                continue
            first, end = end, end + count + 1
            length = int(batch.num_tokens_no_spec[index])
            draft = batch.token_ids_cpu[index, length : length + count].tolist()
            kept = num_accepted(draft, choices[first:end]) + 1
            tokens[index, :kept] = torch.tensor(choices[first : first + kept])
            asked = [item for item in logprobs[first : first + kept] if item is not None]
            if asked:
                self.logprobs[batch.req_ids[index]] = asked
        return SamplerOutput(sampled_token_ids=tokens.to(torch.int32), logprobs_tensors=None)
