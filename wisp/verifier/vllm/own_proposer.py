"""The own drafter inside vLLM's worker: its stock proposer, for chosen requests, with our noise.

Stock code drafts for every request of a step, from the step's tokens alone and greedily. Here those
that ask are given to the proposer as a batch of their own, each with the tokens that its KV lacks.
Nothing waits for the GPU: what the step chose is read where it lies.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.v1.attention.backend import CommonAttentionMetadata

from wisp.sampling.choice import moved
from wisp.sampling.philox import signed
from wisp.verifier.vllm.following import Following
from wisp.verifier.vllm.launched import Launched, OwnLaunched
from wisp.verifier.vllm.options import WHOLE_STEPS
from wisp.verifier.vllm.own_chain import Noise, OwnChain
from wisp.verifier.vllm.own_kv import OwnPart
from wisp.verifier.vllm.own_passes import Hidden, OwnPasses
from wisp.verifier.vllm.params import SAMPLING


@dataclass(slots=True)
class _Back:
    """By how many tokens requests are before what was planned; on the device, int64 [n] each."""

    rows: Tensor  # where they stand in the batch
    drafts: Tensor  # bool: what is made for them are drafts, and not KV alone
    planned: Tensor  # of all that the drafter computes, where its KV goes on as the step begins
    begun: Tensor  # of the step's tokens, where the drafter begins with others
    ended: Tensor  # that the step rejected


class OwnProposer:
    """Stands in for the model runner's `propose_draft_token_ids`."""

    _computes_all = False  # of each step, whoever asks

    def __init__(self, runner: Any, launched: deque[Launched], following: Following) -> None:
        """`launched`: the steps in flight, the last one last."""
        self._runner = runner
        self._launched = launched
        self._following = following
        self._on_gpu = runner.device.type == "cuda"
        self._drafter = runner.drafter
        self.passes = OwnPasses(runner, runner.drafter)
        self.chain = OwnChain(runner, runner.drafter, self.passes)
        if self._on_gpu and WHOLE_STEPS in runner.vllm_config.additional_config:
            self.passes.capture()
            self.chain.capture()
        runner._input_fits_in_drafter = lambda *_: True  # each request has its own limit
        runner.propose_draft_token_ids = self._take
        self._noise: Noise  # of the requests in the making, with which they draft next

    def _take(self, scheduled: Any, *args: Any) -> list[list[int]]:
        """Called for each step, right behind its choices, the attention's metadata last but one.

        Returns no drafts: those of stock code lie in one buffer, which the next step overwrites.
        """
        asked: Sequence[OwnPart] = getattr(scheduled, "wisp_asked", ())
        if asked or self._computes_all:
            metadata = next(each for each in args if isinstance(each, CommonAttentionMetadata))
            step = self._launched[-1]
            step.own = self._propose(asked, step, metadata, args)
        return []

    def _propose(
        self,
        asked: Sequence[OwnPart],
        step: Launched,
        metadata: CommonAttentionMetadata,
        others: Sequence[Any],
    ) -> OwnLaunched | None:
        """`others`: of the arguments of stock code; None: nobody asks."""
        start_s = time.perf_counter()
        begun = self._event()
        rows = np.array([step.places[each.request_id] for each in asked], np.int64)
        num_own = max(1, *[each.num_own for each in asked]) if asked else 0
        made = self._drafted(num_own, asked, rows, step, metadata, others)
        if made is None:
            return None
        tokens, likelihoods = made
        on_host = self._copied(tokens.to(torch.int64))
        acceptance = self._copied(likelihoods)
        arrived = self._event()
        return OwnLaunched(
            asked, tokens, on_host, acceptance, begun, arrived, time.perf_counter() - start_s
        )

    def _inputs(
        self,
        asked: Sequence[OwnPart],
        rows: NDArray[np.int64],
        step: Launched,
        metadata: CommonAttentionMetadata,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, CommonAttentionMetadata]:
        """For each request the tokens that its KV lacks, those of the step last, and their
        positions; what was chosen behind them, [n]; how many of its last ones are none, [n]; and
        what tells the requests apart."""
        runner, device = self._runner, self._runner.device
        batch = runner.input_batch
        drafts = np.array([each.num_own > 0 for each in asked])
        in_step = np.diff(step.token_ends, prepend=0)[rows] * drafts
        firsts = batch.num_computed_tokens_cpu[rows].astype(np.int64)  # of the step's tokens
        starts = np.array([each.start for each in asked], np.int64)
        stops = np.where(drafts, firsts + in_step, [each.stop for each in asked])
        counts = stops - starts
        bounds = np.concatenate(([0], counts.cumsum()))
        owner = np.repeat(np.arange(len(rows)), counts)
        positions = np.arange(bounds[-1]) - bounds[owner] + starts[owner]
        # What the step computes and chose lies on the device alone: perhaps nobody else knows with
        # which token it begins, and at which position.
        # Of drafts in flight some are lost to the host where a row was moved: any token will do, as
        # it costs no more than a draft.
        known = batch.token_ids_cpu[rows[owner], positions].astype(np.int64).clip(min=0)
        first = np.where(drafts, firsts, stops)[owner]
        of_step = (step.token_ends[rows] - in_step)[owner]
        table = moved(np.stack([known, positions, positions - first, of_step, owner]), device)
        back = self._back(asked, rows, step)
        offsets = table[2] + back.begun[table[4]]
        last = len(runner.input_ids.gpu) - 1
        in_batch = runner.input_ids.gpu[(table[3] + offsets).clamp(0, last)]
        most = batch.token_ids_cpu.shape[1] - 1
        following = moved(batch.token_ids_cpu[rows, stops.clip(max=most)].astype(np.int64), device)
        following = torch.where(back.drafts, step.last[back.rows], following)
        rejected = back.begun + back.ended
        self._set_noise(rows, moved(stops + 1, device) - back.planned - rejected)
        return (
            torch.where(offsets < 0, table[0], in_batch).to(torch.int32),
            table[1] - back.planned[table[4]],
            following.to(torch.int32),
            rejected.to(torch.int32),
            _metadata_of(metadata, back, bounds, stops),
        )

    def _drafted(
        self,
        num_own: int,
        asked: Sequence[OwnPart],
        rows: NDArray[np.int64],
        step: Launched,
        metadata: CommonAttentionMetadata,
        others: Sequence[Any],
    ) -> tuple[Tensor, Tensor] | None:
        """So many drafts for each of n requests, int64 [n, num_own], and their likelihoods.

        As vLLM's `propose`, but that a pass may be one graph. rows: [n], where they stand in the
        batch, of which `metadata` tells.
        """
        drafter, passes = self._drafter, self.passes
        tokens, positions, following, rejected, metadata = self._inputs(asked, rows, step, metadata)
        num_tokens, last, metadata = drafter.set_inputs_first_pass(
            target_token_ids=tokens,
            next_token_ids=following,
            target_positions=positions,
            target_hidden_states=None,
            token_indices_to_sample=None,
            cad=metadata,
            num_rejected_tokens_gpu=rejected,
        )
        hidden = passes.run(metadata, num_tokens, is_first=True)
        metadata.seq_lens = metadata.seq_lens - rejected
        return self._chain(num_own, hidden, last, metadata, are_others=False)

    def _chain(
        self,
        num_own: int,
        hidden: Hidden,
        last: Tensor,
        metadata: CommonAttentionMetadata,
        *,
        are_others: bool,
    ) -> tuple[Tensor, Tensor]:
        """The drafts behind a first pass: int64 [n, num_own], and their likelihoods.

        last: [n], of its tokens the last one of each request. metadata: of the n requests, which is
        changed; `are_others`: than those of the first pass.
        """
        drafter, passes, chain = self._drafter, self.passes, self.chain
        found = [chain.choose(hidden[0][last], self._noise)]
        where, num = drafter.positions[last], len(last)
        reads_states = drafter.pass_hidden_states_to_model
        states = hidden[1][last] if reads_states else None
        noise = self._noise
        noise.positions = noise.positions + 1
        if num_own > 1 and chain.begins(found[0][0], where, states, noise, metadata):
            found += [chain.goes_on() for _ in range(num_own - 1)]
            return _stacked(found)
        metadata.num_actual_tokens, metadata.max_query_len = num, 1
        metadata.query_start_loc = drafter.arange[: num + 1]
        metadata.query_start_loc_cpu = torch.arange(num + 1, dtype=torch.int32)
        for index in range(num_own - 1):
            where = drafter._update_positions_dependent_metadata(
                where, metadata, num, passes.size(num), drafter.block_size
            )
            drafter.input_ids[:num] = found[-1][0].int()
            if reads_states:
                drafter.hidden_states[:num] = states
            hidden = passes.run(metadata, num, is_first=are_others and index == 0)
            states = hidden[1][:num]
            found.append(chain.choose(hidden[0][:num], noise))
            noise.positions = noise.positions + 1
        return _stacked(found)

    def _back(self, asked: Sequence[OwnPart], rows: NDArray[np.int64], step: Launched) -> _Back:
        facts = [
            (row, each.num_own > 0, each.follows) for row, each in zip(rows, asked, strict=True)
        ]
        on_device, drafts, follow = moved(np.array(facts, np.int64).T.copy(), self._runner.device)
        nothing = torch.zeros_like(on_device)
        back, rejected = self._following.back, step.rejected
        begun = nothing if back is None else back[on_device] * drafts
        ended = nothing if rejected is None else rejected[on_device] * drafts
        planned = begun * follow
        return _Back(on_device, drafts > 0, planned, begun - planned, ended)

    def _set_noise(self, rows: NDArray[np.int64], positions: Tensor) -> None:
        """`positions`: [n], where the first drafts are to stand."""
        batch, states = self._runner.input_batch, self._runner.requests
        names = [batch.req_ids[row] for row in rows.tolist()]
        samplings = [states[name].sampling_params.extra_args[SAMPLING] for name in names]
        device = self._runner.device
        seeds = np.array([signed(sampling.seed) for sampling in samplings], np.int64)
        temperatures = np.array([each.temperature for each in samplings], np.float32)
        self._noise = Noise(moved(seeds, device), moved(temperatures, device), positions)

    def _copied(self, found: Tensor) -> Tensor:
        on_host = torch.empty(found.shape, dtype=found.dtype, pin_memory=self._on_gpu)
        on_host.copy_(found, non_blocking=True)
        return on_host

    def _event(self) -> torch.cuda.Event | None:
        if not self._on_gpu:
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _stacked(found: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    tokens, likelihoods = zip(*found, strict=True)
    return torch.stack(tokens, dim=1), torch.stack(likelihoods, dim=1)


def _metadata_of(
    metadata: CommonAttentionMetadata,
    back: _Back,
    bounds: NDArray[np.int64],
    stops: NDArray[np.int64],
) -> CommonAttentionMetadata:
    """For some of the step's requests, each with the tokens between two bounds.

    stops: [n], behind the last of these, which is how long their sequences are.
    """
    device = metadata.block_table_tensor.device
    lengths = stops.astype(np.int32)
    return CommonAttentionMetadata(
        query_start_loc=moved(bounds.astype(np.int32), device),
        query_start_loc_cpu=torch.from_numpy(bounds.astype(np.int32)),
        seq_lens=moved(lengths, device) - back.planned.to(torch.int32),
        seq_lens_cpu_upper_bound=torch.from_numpy(lengths.copy()),
        num_reqs=len(stops),
        num_actual_tokens=int(bounds[-1]),
        max_query_len=int(np.diff(bounds).max()),
        max_seq_len=int(lengths.max()),
        block_table_tensor=metadata.block_table_tensor[back.rows],
        # The proposer makes its own from the positions and the block table.
        slot_mapping=metadata.slot_mapping[:0],
        causal=True,
    )
