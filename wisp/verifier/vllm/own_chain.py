"""The own drafter's passes behind the first one, in which each request has a token; on a GPU each
is one launch.

Such a pass moves each request on by the token drafted last, computes it and chooses the next. That
is some thirty launches beside those of the model, more than one layer of an EAGLE head has. So all
of it is in one graph, of so many requests: those that are not there write nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.platforms import current_platform
from vllm.v1.attention.backend import CommonAttentionMetadata

from wisp.sampling.choice import choose_likely
from wisp.verifier.vllm.own_passes import OwnPasses

log = logging.getLogger(__name__)

# Requests of the largest graph. Chosen: logits of so many, several times over, are some 200 MiB at
# 150,000 tokens; beyond them a pass is long beside its launches.
_MAX_ROWS = 64
_NO_SLOT = -1  # vLLM's mark of a token whose KV is not written


@dataclass(slots=True)
class Noise:
    """With which requests choose their next draft; [n] each, on the device."""

    seeds: Tensor  # int64, see `wisp.sampling.philox.signed`
    temperatures: Tensor  # float32
    positions: Tensor  # int64, of that draft


class OwnChain:
    def __init__(self, runner: Any, drafter: Any, passes: OwnPasses) -> None:
        self._runner = runner
        self._drafter = drafter
        self._passes = passes
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by number of requests
        self._num = self._size = 0  # of the requests in the making; of their graph

    def choose(self, hidden_states: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """A draft for each request, int64 [n], as the target would choose by these logits; and its
        likelihood, float32 [n]."""
        logits = self._drafter.model.compute_logits(hidden_states)
        return choose_likely(logits, noise.seeds, noise.positions, noise.temperatures)

    def capture(self) -> None:
        """For so many requests as there are graphs of first passes; none if it fails."""
        self.make_buffers()
        sizes = [size for size in self._passes.sizes if size <= len(self._tokens)]
        try:
            with torch.inference_mode(), self._passes.capturing():
                for size in reversed(sizes):
                    self.graphs[size] = self._captured(size)
        except Exception:
            log.exception("what is between the drafter's passes is launched piece by piece")
            self.graphs.clear()
        torch.cuda.synchronize()

    def _captured(self, size: int) -> torch.cuda.CUDAGraph:
        metadata = self._passes.metadata(size)
        # All that they write goes to vLLM's null block, as nobody has one.
        self._absent.fill_(False)
        self.run(metadata, size)  # what is made at the first call is not to be captured
        graph = torch.cuda.CUDAGraph()
        pool, stream = current_platform.get_global_graph_pool(), torch.cuda.current_stream()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            self.run(metadata, size)
        return graph

    def make_buffers(self) -> None:
        device = self._runner.device
        num = min(_MAX_ROWS, self._runner.max_num_reqs)
        self._tokens = torch.zeros(num, dtype=torch.int64, device=device)
        self._likelihoods = torch.zeros(num, device=device)
        self._states = torch.zeros_like(self._drafter.hidden_states[:num])
        self._noise = Noise(
            torch.zeros_like(self._tokens),
            torch.zeros_like(self._likelihoods),
            torch.zeros_like(self._tokens),
        )
        self._absent = torch.ones(num, dtype=torch.bool, device=device)

    def begins(
        self,
        tokens: Tensor,
        where: Tensor,
        states: Tensor | None,
        noise: Noise,
        metadata: CommonAttentionMetadata,
    ) -> bool:
        """With these, [n]: the first drafts, the positions before them, and a head's hidden states
        there. False: there is no graph for so many."""
        num = len(tokens)
        size = next((size for size in sorted(self.graphs) if size >= num), 0)
        if not size:
            return False
        self._num, self._size = num, size
        self._passes.place(metadata, num)
        positions = self._drafter.positions
        positions[:num].copy_(where)
        positions[num:size].fill_(0)
        self._tokens[:num].copy_(tokens)
        if states is not None:
            self._states[:num].copy_(states)
        self._noise.seeds[:num].copy_(noise.seeds)
        self._noise.temperatures[:num].copy_(noise.temperatures)
        self._noise.positions[:num].copy_(noise.positions)
        self._absent[:num].fill_(False)
        self._absent[num:].fill_(True)
        return True

    def goes_on(self) -> tuple[Tensor, Tensor]:
        """As `choose`, of those that it began with."""
        self.graphs[self._size].replay()
        return self._tokens[: self._num].clone(), self._likelihoods[: self._num].clone()

    def run(self, metadata: CommonAttentionMetadata, size: int) -> None:
        """`metadata`: of `OwnPasses.metadata`."""
        self.advance(metadata, size)
        self.compute(metadata, size)

    def advance(self, metadata: CommonAttentionMetadata, size: int) -> None:
        drafter, absent = self._drafter, self._absent[:size]
        drafter._update_positions_dependent_metadata(
            drafter.positions[:size], metadata, size, size, drafter.block_size
        )
        drafter._slot_mapping_buffer[:size].masked_fill_(absent, _NO_SLOT)
        metadata.seq_lens.masked_fill_(absent, 0)
        drafter.input_ids[:size].copy_(self._tokens[:size])
        if drafter.pass_hidden_states_to_model:
            drafter.hidden_states[:size].copy_(self._states[:size])

    def compute(self, metadata: CommonAttentionMetadata, size: int) -> None:
        seen, states = self._passes.forward(metadata, size)
        if self._drafter.pass_hidden_states_to_model:
            self._states[:size].copy_(states[:size])
        noise = Noise(
            self._noise.seeds[:size],
            self._noise.temperatures[:size],
            self._noise.positions[:size],
        )
        tokens, likelihoods = self.choose(seen[:size], noise)
        self._tokens[:size].copy_(tokens)
        self._likelihoods[:size].copy_(likelihoods)
        noise.positions.add_(1)
