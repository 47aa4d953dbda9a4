"""Passes of the own drafter over a batch of its own; on a GPU each is one launch.

A pass of a small model takes the GPU a millisecond, but the host six where its 28 layers are
launched piece by piece: then the host is what a step waits for. Stock code captures no more than
pieces of a drafter, so whole passes are captured here, as graphs of so many tokens, whoever they
are of: requests that are not there have no tokens in it.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from vllm.config import CUDAGraphMode
from vllm.distributed.parallel_state import graph_capture
from vllm.forward_context import set_forward_context
from vllm.platforms import current_platform
from vllm.v1.attention.backend import CommonAttentionMetadata

log = logging.getLogger(__name__)

# Of a pass, [num_tokens or more, width]: hidden states from which logits are made, and those that a
# head reads in the next one. A model of its own has but one, and reads none.
Hidden = tuple[Tensor, Tensor]


class OwnPasses:
    """`drafter`: vLLM's proposer, whose buffers hold the tokens, their positions and slots."""

    def __init__(self, runner: Any, drafter: Any) -> None:
        self._runner = runner
        self._drafter = drafter
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Hidden]] = {}  # by number of tokens
        self.sizes: list[int] = []  # of those, ascending

    def capture(self) -> None:
        """For the numbers of tokens for which the target's steps are captured; without graphs if
        it fails."""
        sizes = sorted(self._runner.compilation_config.cudagraph_capture_sizes or ())
        self.make_buffers()
        try:
            with torch.inference_mode(), self.capturing():
                for size in reversed(sizes):
                    self.graphs[size] = self._captured(size)
        except Exception:
            log.exception("the drafter's passes are launched piece by piece")
            self.graphs.clear()
        torch.cuda.synchronize()
        self.sizes = sorted(self.graphs)

    def capturing(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = graph_capture(device=self._runner.device)
        return context

    def make_buffers(self) -> None:
        """What the kernels in the graphs read, in the same place each time."""
        runner, device = self._runner, self._runner.device
        num_reqs = runner.max_num_reqs
        width = runner.input_batch.block_table[0].get_device_tensor(1).shape[1]
        self._bounds = torch.arange(num_reqs + 1, dtype=torch.int32, device=device)
        self._lengths = torch.ones(num_reqs, dtype=torch.int32, device=device)
        self._blocks = torch.zeros((num_reqs, width), dtype=torch.int32, device=device)

    def _captured(self, size: int) -> tuple[torch.cuda.CUDAGraph, Hidden]:
        metadata = self.metadata(size)
        self.forward(metadata, size)  # what is made at the first call is not to be captured
        graph = torch.cuda.CUDAGraph()
        pool, stream = current_platform.get_global_graph_pool(), torch.cuda.current_stream()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            hidden = self.forward(metadata, size)
        return graph, hidden

    def metadata(self, size: int) -> CommonAttentionMetadata:
        """Of a graph for so many tokens, as if each were a request of its own."""
        num_reqs = min(size, len(self._lengths))
        bounds = torch.arange(num_reqs + 1, dtype=torch.int32)
        bounds[-1] = size
        self._bounds[: num_reqs + 1].copy_(bounds)
        self._lengths.fill_(size)
        slots = self._drafter._slot_mapping_buffer
        slots[:size].fill_(-1)  # nothing is written
        return CommonAttentionMetadata(
            query_start_loc=self._bounds[: num_reqs + 1],
            query_start_loc_cpu=bounds,
            seq_lens=self._lengths[:num_reqs],
            seq_lens_cpu_upper_bound=torch.full((num_reqs,), size, dtype=torch.int32),
            num_reqs=num_reqs,
            num_actual_tokens=size,
            max_query_len=size,
            max_seq_len=self._drafter.max_model_len,
            block_table_tensor=self._blocks[:num_reqs],
            slot_mapping=slots[:size],
            causal=True,
        )

    def run(self, metadata: CommonAttentionMetadata, num_tokens: int, *, is_first: bool) -> Hidden:
        """`is_first`: of these requests; behind it only their bounds and lengths change."""
        size = self.size(num_tokens)
        if size not in self.graphs:
            mode = self._drafter._determine_batch_execution_and_padding(num_tokens)[0]
            self._drafter._get_slot_mapping(size, metadata.slot_mapping)
            return self.forward(metadata, size, mode)
        num_reqs = metadata.num_reqs
        self._bounds[: num_reqs + 1].copy_(metadata.query_start_loc)
        self._bounds[num_reqs + 1 :].fill_(num_tokens)
        self._lengths[:num_reqs].copy_(metadata.seq_lens)
        if is_first:
            self._lengths[num_reqs:].fill_(0)
            self._blocks[:num_reqs].copy_(metadata.block_table_tensor)
            self._drafter._get_slot_mapping(size, metadata.slot_mapping)
        graph, hidden = self.graphs[size]
        graph.replay()
        return hidden

    def place(self, metadata: CommonAttentionMetadata, num: int) -> None:
        """So many requests, each with one token in the next pass."""
        self._bounds[: num + 1].copy_(self._drafter.arange[: num + 1])
        self._bounds[num + 1 :].fill_(num)
        self._lengths[:num].copy_(metadata.seq_lens)
        self._lengths[num:].fill_(0)
        self._blocks[:num].copy_(metadata.block_table_tensor)

    def size(self, num_tokens: int) -> int:
        """Tokens of the smallest graph for so many, or of its pieces."""
        for size in self.sizes:
            if size >= num_tokens:
                return size
        return int(self._drafter._determine_batch_execution_and_padding(num_tokens)[1])

    def forward(
        self,
        metadata: CommonAttentionMetadata,
        num_tokens: int,
        mode: CUDAGraphMode = CUDAGraphMode.NONE,
    ) -> Hidden:
        drafter = self._drafter
        _, by_layer = drafter.build_per_group_and_layer_attn_metadata(metadata)
        with set_forward_context(
            by_layer,
            drafter.vllm_config,
            num_tokens=num_tokens,
            cudagraph_runtime_mode=mode,
            slot_mapping=drafter._get_slot_mapping(num_tokens),
        ):
            states = {}
            if drafter.pass_hidden_states_to_model:
                states["hidden_states"] = drafter.hidden_states[:num_tokens]
            found = drafter.model(
                input_ids=drafter.input_ids[:num_tokens],
                positions=drafter._get_positions(num_tokens),
                inputs_embeds=None,
                **states,
            )
        return found if drafter.model_returns_tuple() else (found, found)
