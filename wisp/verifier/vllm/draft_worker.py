"""A drafter inside vLLM's worker: texts that go back, and rankings in place of choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.outputs import SamplerOutput

from wisp.core.extension import Ranking
from wisp.sampling.choice import moved
from wisp.sampling.ranking import rank_rows
from wisp.verifier.vllm.host_kv import pieces
from wisp.verifier.vllm.launched import NO_TOKEN


class DraftWorker:
    """Mixed into vLLM's worker (`worker_extension_cls`); called by `collective_rpc`."""

    model_runner: Any

    def wisp_install(self, num_logits: int | None, ids: Sequence[int] | None) -> None:
        """`num_logits`: that count, None for all; `ids`: the target's ids of these tokens."""
        self.wisp_ranker = _Ranker(self.model_runner, num_logits, ids)

    def wisp_copy(self, moves: Sequence[tuple[int, int]]) -> None:
        """Of KV blocks: from, to. Stock code has a call for this, too, which in 0.26 takes all that
        a layer holds for blocks that lie together, whether keys and values are apart or not."""
        runner = self.model_runner
        source, target = moved(np.array(moves).T.copy(), runner.device)
        for cache in runner.kv_caches:
            for piece in pieces(cache, runner.kv_cache_config.num_blocks):
                piece.index_copy_(0, target, piece.index_select(0, source))

    def wisp_ranking(self) -> tuple[list[str], Ranking] | None:
        """Of the step just made: requests, and a row for each; None: all ended inside a text."""
        return self.wisp_ranker.found


class _Ranker:
    def __init__(self, runner: Any, num_logits: int | None, ids: Sequence[int] | None) -> None:
        self._runner = runner
        self._num_logits = num_logits
        self._ids = None if ids is None else torch.tensor(ids, device=runner.device)
        self.found: tuple[list[str], Ranking] | None = None
        self._noise: dict[str, tuple[int, float]] = {}  # by request: seed, temperature
        self._stock_update = runner._update_states
        runner._update_states = self._update_states
        runner._sample = self._sample
        if runner.device.type == "cuda":  # buffers on the host are not to be filled while they are
            # copied, and a step of which nothing is ranked waits for nothing else.
            runner.prepare_inputs_event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _update_states(self, scheduled: Any) -> Any:
        """Called for each step, before anything is read of its requests."""
        found = self._stock_update(scheduled)
        self._noise = scheduled.wisp_noise
        batch = self._runner.input_batch
        for name, (start, tokens) in scheduled.wisp_tokens.items():
            state, row = self._runner.requests[name], batch.req_id_to_index[name]
            state.output_token_ids[start - state.num_prompt_tokens :] = tokens
            end = start + len(tokens)
            batch.token_ids_cpu[row, start:end] = tokens
            batch.is_token_ids[row, start:end] = True
            batch.num_tokens_no_spec[row] = end
        return found

    def _sample(self, logits: Tensor, spec_decode_metadata: Any) -> SamplerOutput:
        """logits: [requests, vocab], of the last token of each in this step."""
        batch = self._runner.input_batch
        rows = np.flatnonzero(~self._runner.discard_request_mask.np[: batch.num_reqs])
        names = [batch.req_ids[row] for row in rows]
        self.found = None
        if names:
            if len(names) < batch.num_reqs:
                logits = logits[torch.from_numpy(rows).to(logits.device)]
            seeds, temperatures = zip(*[self._noise[name] for name in names], strict=True)
            ranking = rank_rows(
                logits[:, : self._num_logits],
                list(seeds),
                list(temperatures),
                batch.num_tokens_no_spec[rows].tolist(),
                self._ids,
            )
            self.found = names, ranking
        # Two columns: of one alone vLLM takes every entry for a token.
        return SamplerOutput(torch.full((batch.num_reqs, 2), NO_TOKEN), logprobs_tensors=None)
