"""An EAGLE-3 head, or the target's MTP layers, as the own drafter inside vLLM's worker.

A head reads what the target had in mind at each token, and the token behind it. The target's hidden
states are there right after its step and never again: so the head's first pass is over all tokens
of each step, whoever asks for drafts. It is one layer. Those who ask go on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.v1.attention.backend import CommonAttentionMetadata

from wisp.sampling.choice import moved
from wisp.verifier.vllm.launched import Launched
from wisp.verifier.vllm.own_kv import OwnPart
from wisp.verifier.vllm.own_proposer import OwnProposer


class HeadProposer(OwnProposer):
    _computes_all = True

    def _drafted(
        self,
        num_own: int,
        asked: Sequence[OwnPart],
        rows: NDArray[np.int64],
        step: Launched,
        metadata: CommonAttentionMetadata,
        others: Sequence[Any],
    ) -> tuple[Tensor, Tensor] | None:
        drafter, inputs = self._drafter, self._runner.input_ids.gpu
        num_tokens = int(step.token_ends[-1])
        # Where the step's drafts were rejected, what stands behind is computed, too. The next step
        # computes the same positions, and nobody reads them before.
        rejected = step.rejected
        last = metadata.query_start_loc[1:].long() - 1
        last = last if rejected is None else last - rejected
        drafter.set_inputs_first_pass(
            target_token_ids=inputs[:num_tokens],
            next_token_ids=self._following_tokens(step).to(inputs.dtype),
            target_positions=self._runner.positions[:num_tokens],
            target_hidden_states=self._states(num_tokens, others),
            token_indices_to_sample=last,
            cad=metadata,
            num_rejected_tokens_gpu=None,
        )
        hidden = self.passes.run(metadata, num_tokens, is_first=True)
        if not asked:
            return None
        places = moved(rows, inputs.device)
        ends = last[places]
        self._set_noise(rows, drafter.positions[ends] + 2)
        lengths = metadata.seq_lens[places]
        if rejected is not None:
            lengths = lengths - rejected[places].to(lengths.dtype)
        return self._chain(
            num_own, hidden, ends, _metadata_of(metadata, places, rows, lengths), are_others=True
        )

    def _following_tokens(self, step: Launched) -> Tensor:
        """[n]: the one behind each request's tokens, chosen or the prompt's."""
        unfinished = step.unfinished
        if not unfinished.any():
            return step.last
        batch = self._runner.input_batch
        rows = np.arange(len(unfinished))
        ends = batch.num_computed_tokens_cpu[rows] + np.diff(step.token_ends, prepend=0)
        ends = ends.clip(max=batch.token_ids_cpu.shape[1] - 1)
        prompts = batch.token_ids_cpu[rows, ends].astype(np.int64).clip(min=0)
        table = moved(np.stack([prompts, unfinished]), step.last.device)
        return torch.where(table[1] > 0, table[0], step.last)

    def _states(self, num_tokens: int, others: Sequence[Any]) -> Tensor:
        """Of the target, [num_tokens, width], as the head reads them."""
        _, _, last_layer, _, some_layers, *_ = others
        if some_layers is None:
            states: Tensor = last_layer[:num_tokens]
        else:
            states = torch.cat([layer[:num_tokens] for layer in some_layers], dim=-1)
        if self._drafter.method == "eagle3":
            states = self._drafter.model.combine_hidden_states(states)
        return states


def _metadata_of(
    metadata: CommonAttentionMetadata, places: Tensor, rows: NDArray[np.int64], lengths: Tensor
) -> CommonAttentionMetadata:
    """Of some of the step's requests, without any tokens yet.

    places, rows: [n], where they stand, on the device and here; lengths: [n], of their texts.
    """
    bound = metadata.seq_lens_cpu_upper_bound
    return CommonAttentionMetadata(
        query_start_loc=metadata.query_start_loc[:1],
        query_start_loc_cpu=metadata.query_start_loc_cpu[:1],
        seq_lens=lengths,
        seq_lens_cpu_upper_bound=None if bound is None else bound[torch.from_numpy(rows)],
        num_reqs=len(rows),
        num_actual_tokens=0,
        max_query_len=1,
        max_seq_len=metadata.max_seq_len,
        block_table_tensor=metadata.block_table_tensor[places],
        slot_mapping=metadata.slot_mapping[:0],
        causal=True,
    )
