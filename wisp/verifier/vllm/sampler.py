"""Law 1 inside vLLM: its model runner makes every choice with wisp.sampling.

vLLM's own sampler is never asked, so its processors see plain greedy requests and do nothing. What
a choice needs travels with the request (`sampling_params.extra_args`), because with tensor
parallelism the workers are other processes. Each rank makes the same choice from the same logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.outputs import SamplerOutput

from wisp.core import Sampling, TokenLogprob
from wisp.sampling.accept import standing
from wisp.sampling.choice import choose, choose_unprocessed
from wisp.sampling.philox import signed
from wisp.sampling.processors import Row, needs_processing
from wisp.verifier.vllm.structures import params_of

_SAMPLING = "wisp_sampling"
_NUM_PROMPT = "wisp_num_prompt"
_SLOW = "wisp_slow"  # its rows need more than noise: processors, logprobs
_NO_TOKEN = -1  # vLLM's mark behind the last token of a row


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
            _SAMPLING: sampling,
            _NUM_PROMPT: num_prompt,
            _SLOW: needs_processing(sampling) or sampling.num_logprobs is not None,
        },
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
    """Stands in for the model runner's `_sample`.

    On a GPU the forward still runs when this is called: all is prepared and launched as arrays, and
    the one copy of the choices to the host is what waits for it.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.logprobs: dict[str, list[TokenLogprob]] = {}

    def __call__(self, logits: Tensor, spec_decode_metadata: Any) -> SamplerOutput:
        """logits: [rows, vocab]; a request with k draft tokens has k + 1 rows, in batch order."""
        batch = self._runner.input_batch
        counts = np.zeros(batch.num_reqs, np.int64)
        if spec_decode_metadata is not None:
            counts[:] = spec_decode_metadata.num_draft_tokens
        lengths = batch.num_tokens_no_spec[: batch.num_reqs].astype(np.int64)
        choices, logprobs = self._choose(logits, counts, lengths)
        behind = lengths[:, None] + np.arange(counts.max())  # a draft lies behind its tokens
        known = batch.token_ids_cpu[: batch.num_reqs]
        drafts = np.take_along_axis(known, behind.clip(max=known.shape[1] - 1), axis=1)
        tokens = standing(choices, drafts, counts, _NO_TOKEN)
        tokens[self._unfinished()] = _NO_TOKEN
        kept = np.count_nonzero(tokens != _NO_TOKEN, axis=1)
        self.logprobs = {
            batch.req_ids[index]: found[: kept[index]] for index, found in logprobs.items() if found
        }
        return SamplerOutput(torch.from_numpy(tokens.astype(np.int32)), logprobs_tensors=None)

    def _unfinished(self) -> NDArray[np.bool_]:
        """Of each request: the step ends inside its prompt, and chooses nothing."""
        found: NDArray[np.bool_] = self._runner.discard_request_mask.np
        return found[: self._runner.input_batch.num_reqs]

    def _choose(
        self, logits: Tensor, counts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], dict[int, list[TokenLogprob]]]:
        """The choice of every row, [rows], and the logprobs of requests that ask, by index."""
        batch, states = self._runner.input_batch, self._runner.requests
        extras = [states[name].sampling_params.extra_args for name in batch.req_ids]
        samplings = [extra[_SAMPLING] for extra in extras]
        num_rows = counts + 1
        ends = num_rows.cumsum()
        choices = choose_unprocessed(
            logits,
            np.repeat([signed(sampling.seed) for sampling in samplings], num_rows),
            np.arange(ends[-1]) + np.repeat(lengths + num_rows - ends, num_rows),
            np.repeat(np.array([s.temperature for s in samplings], np.float32), num_rows),
        )
        found: NDArray[np.int64]
        slow = [
            index for index in np.flatnonzero(~self._unfinished()).tolist() if extras[index][_SLOW]
        ]
        if not slow:
            found = choices.cpu().numpy()
            return found, {}
        spans = [range(ends[index] - num_rows[index], ends[index]) for index in slow]
        places = [place for span in spans for place in span]
        rows = [row for index in slow for row in self._rows(index, counts[index], extras[index])]
        tokens, logprobs = choose(logits[places], rows)
        found = choices.cpu().numpy()
        found[places] = tokens
        items = iter(logprobs)
        asked = {
            index: [item for item in islice(items, len(span)) if item is not None]
            for index, span in zip(slow, spans, strict=True)
        }
        return found, asked

    def _rows(self, index: int, count: int, extra: Mapping[str, Any]) -> list[Row]:
        batch = self._runner.input_batch
        length = int(batch.num_tokens_no_spec[index])
        tokens = batch.token_ids_cpu[index, : length + count]
        return [
            Row(extra[_SAMPLING], tokens, extra[_NUM_PROMPT], position)
            for position in range(length, length + count + 1)
        ]
