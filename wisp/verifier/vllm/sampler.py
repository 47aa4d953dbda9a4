"""Law 1 inside vLLM: its model runner makes every choice with wisp.sampling.

vLLM's own sampler is never asked, so its processors see plain greedy requests and do nothing. What
a choice needs travels with the request (`sampling_params.extra_args`), because with tensor
parallelism the workers are other processes. Each rank makes the same choice from the same logits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.v1.outputs import SamplerOutput
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from wisp.core.drafts import TokenLogprob
from wisp.core.own_drafts import Proposed
from wisp.sampling.choice import choose, choose_unprocessed, moved
from wisp.sampling.philox import signed
from wisp.sampling.processors import Row
from wisp.verifier.vllm.following import Following
from wisp.verifier.vllm.launched import NO_TOKEN, Collected, Launched, chosen_last
from wisp.verifier.vllm.options import HEADS, NO_METHOD
from wisp.verifier.vllm.own_head import HeadProposer
from wisp.verifier.vllm.own_proposer import OwnProposer
from wisp.verifier.vllm.params import NUM_PROMPT, SAMPLING, SLOW


class Chooser:
    """Stands in for the model runner's `_sample`, and says what the host learns of it, and when.

    On a GPU the forward still runs when `_sample` is called: all is prepared and launched as
    arrays, and nobody waits. vLLM's bookkeeping is told that nothing was chosen; `collect` makes up
    for it when the choices have arrived. One more step may be launched before that, planned as if
    the in-flight one accepted all its drafts: where a request takes part in both, the GPU moves it
    back by what was rejected, and gives it the token chosen last.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._on_gpu = runner.device.type == "cuda"
        self.launched: deque[Launched] = deque()
        # Models with recurrent layers keep a state for each draft token, and pick one at once.
        self.tells_at_once: bool = runner.model_config.is_hybrid
        # [n]: behind the tokens of each request; its position, as was planned, and its place.
        self._positions: NDArray[np.int64]
        self._token_ends: NDArray[np.int64]
        self._stock_prepare = runner._prepare_input_ids
        runner._prepare_input_ids = self._prepare_input_ids
        self._following = Following(runner, self.launched)
        self._coming: Collection[str] = ()  # who verifies own drafts that the device alone knows
        self._begun: torch.cuda.Event | None = None  # when the target began with the last step
        self._stock_forward = runner._model_forward
        runner._model_forward = self._forward
        if (method := runner.speculative_config.method) != NO_METHOD:
            proposer = HeadProposer if method in HEADS else OwnProposer
            self.own = proposer(runner, self.launched, self._following)
        runner._sample = self._sample
        self._stock_metadata = runner._build_attention_metadata
        runner._build_attention_metadata = self._build_attention_metadata
        runner._calc_spec_decode_metadata = self._spec_decode_metadata
        # Where every token of a step has a choice of its own, these are the rows of its logits.
        self._all_rows = torch.arange(len(runner.input_ids.gpu), device=runner.device)
        self._nothing = torch.empty(0, dtype=torch.int32, device=runner.device)
        if self._on_gpu:  # buffers on the host are not to be filled while they are copied
            runner.prepare_inputs_event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _prepare_input_ids(self, scheduled: Any, *args: Any) -> None:
        """Called for each step, with the ends of the requests' tokens as the last argument."""
        self._stock_prepare(scheduled, *args)
        batch = self._runner.input_batch
        ends = np.asarray(args[-1], np.int64)
        num_tokens = np.diff(ends, prepend=0)
        self._positions = batch.num_computed_tokens_cpu[: batch.num_reqs] + num_tokens
        self._token_ends = ends
        self._following.give_tokens(ends - num_tokens)
        drafts = scheduled.scheduled_spec_decode_tokens
        self._coming = self._following.give_own(ends - num_tokens, drafts)
        self._following.give_drafts(ends - num_tokens, ends, scheduled.wisp_alternatives)

    def _forward(self, *args: Any, **more: Any) -> Any:
        if self._on_gpu:
            self._begun = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._begun.record()
        return self._stock_forward(*args, **more)

    def _build_attention_metadata(self, *, max_query_len: int, **more: Any) -> Any:
        """Plan the attention of a full CUDA graph for the kernel that is in it.

        FlashAttention 3 takes another kernel for single queries than for longer ones, unless heads
        are of 65 to 128 elements. A graph holds the one for longer ones, which reads the plan of
        the other wrongly: each choice of a step without drafts came out wrong.
        """
        is_full_graph = more.get("num_tokens_padded") is not None
        longest = max(2, max_query_len) if is_full_graph else max_query_len
        return self._stock_metadata(max_query_len=longest, **more)

    def _spec_decode_metadata(
        self, num_drafts: NDArray[np.int32], ends: NDArray[np.integer]
    ) -> SpecDecodeMetadata:
        """The rows of the logits, and how many drafts each request has: all that is read here.

        Stock code makes six tensors more for its own sampler, while the GPU has nothing to do.
        `ends`: behind the tokens of each request in the step.
        """
        counts = num_drafts + 1
        num_rows = int(counts.sum())
        if num_rows == int(ends[-1]):
            rows = self._all_rows[:num_rows]
        else:  # a prompt is among them, of which only the last token chooses
            behind = np.repeat(ends - counts.cumsum(), counts)
            rows = moved((np.arange(num_rows) + behind).astype(np.int64), self._runner.device)
        return SpecDecodeMetadata(
            draft_token_ids=self._nothing,
            num_draft_tokens=num_drafts.tolist(),
            cu_num_draft_tokens=self._nothing,
            cu_num_sampled_tokens=self._nothing,
            target_logits_indices=self._nothing,
            bonus_logits_indices=self._nothing,
            logits_indices=rows,
        )

    def _sample(self, logits: Tensor, spec_decode_metadata: Any) -> SamplerOutput:
        """logits: [rows, vocab]; a request with k draft tokens has k + 1 rows, in batch order."""
        batch = self._runner.input_batch
        counts = np.zeros(batch.num_reqs, np.int64)
        if spec_decode_metadata is not None:
            counts[:] = spec_decode_metadata.num_draft_tokens
        unfinished = self._runner.discard_request_mask.np[: batch.num_reqs].copy()
        rows = self._rows_of(spec_decode_metadata)
        choices, slow = self._choose(logits, rows, counts, self._positions - counts, unfinished)
        inputs = self._runner.input_ids.gpu
        following = inputs[(rows + 1).clamp(max=len(inputs) - 1)]
        last, rejected = chosen_last(choices, following, counts)
        # Which drafts the step verified may depend on what the one before it chose.
        both = torch.stack([choices, following.to(torch.int64)])
        on_host = torch.empty(both.shape, dtype=torch.int64, pin_memory=self._on_gpu)
        on_host.copy_(both, non_blocking=True)
        arrived = None
        if self._on_gpu:
            arrived = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            arrived.record()
        names = list(batch.req_ids)
        step = Launched(
            names,
            counts,
            unfinished,
            choices,
            on_host,
            slow,
            last,
            rejected,
            self._token_ends,
            arrived,
            begun=self._begun,
            coming=self._coming,
        )
        self.launched.append(step)
        if self.tells_at_once:
            step.wait()
            return SamplerOutput(torch.from_numpy(step.table()), logprobs_tensors=None)
        # Two columns: of one alone vLLM takes every entry for a token.
        return SamplerOutput(torch.full((len(names), 2), NO_TOKEN), logprobs_tensors=None)

    def _rows_of(self, metadata: Any) -> Tensor:
        """Of the step's tokens those behind which a choice is made, int64 on the device."""
        if metadata is None:
            num_reqs = self._runner.input_batch.num_reqs
            found: Tensor = self._runner.query_start_loc.gpu[1 : num_reqs + 1].long() - 1
        else:
            found = metadata.logits_indices
        return found

    def collect(self) -> Collected:
        """Wait for the first of the steps launched, and let vLLM know what was chosen."""
        step = self.launched.popleft()
        arrived_s = step.wait()
        table = step.table()
        num_tokens = np.count_nonzero(table != NO_TOKEN, axis=1).tolist()
        named = zip(step.request_ids, table.tolist(), num_tokens, strict=True)
        tokens = {name: row[:count] for name, row, count in named if count}
        if not self.tells_at_once:
            self.append(tokens)
        found = Collected(tokens, {}, arrived_s, step.took_s)
        if step.own:
            found.own, found.drafting_s = step.own.found(), step.own.drafting_s
            self._know_own(found.own)
        for index, (_, logprobs) in step.slow.items():
            if logprobs and num_tokens[index]:
                found.logprobs[step.request_ids[index]] = logprobs[: num_tokens[index]]
        return found

    def _know_own(self, found: Mapping[str, Proposed]) -> None:
        """Of the step in flight that verifies them, which until now the device alone knew."""
        if not self.launched:
            return
        step, batch = self.launched[0], self._runner.input_batch
        for name, proposed in found.items():
            place, row = step.places.get(name), batch.req_id_to_index.get(name)
            if place is None or row is None or name not in step.coming:
                continue
            start = batch.num_tokens_no_spec[row]
            tokens = proposed.tokens[: int(step.counts[place])]
            batch.token_ids_cpu[row, start : start + len(tokens)] = tokens

    def append(self, found: Mapping[str, list[int]]) -> None:
        """Tell the model runner, as its own bookkeeping does: for all requests at once."""
        states, batch = self._runner.requests, self._runner.input_batch
        rows, tokens = [], []
        for name, chosen in found.items():
            state = states.get(name)
            if state is None:  # it ended while the step ran
                continue
            state.output_token_ids.extend(chosen)
            row = batch.req_id_to_index.get(name)
            if row is not None:
                rows.append(row)
                tokens.append(chosen)
        if not rows:
            return
        counts = np.fromiter(map(len, tokens), np.int64, len(tokens))
        starts = batch.num_tokens_no_spec[rows].astype(np.int64)
        ends = counts.cumsum()
        places = np.arange(ends[-1]) + np.repeat(starts - ends + counts, counts)
        where = np.repeat(rows, counts), places
        batch.token_ids_cpu[where] = np.fromiter(chain.from_iterable(tokens), np.int32, ends[-1])
        batch.is_token_ids[where] = True
        batch.num_tokens_no_spec[rows] = starts + counts

    def _choose(
        self,
        logits: Tensor,
        rows: Tensor,
        counts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        unfinished: NDArray[np.bool_],
    ) -> tuple[Tensor, dict[int, tuple[list[int], list[TokenLogprob]]]]:
        """The choice of every row, [rows]; by request index, those that replace some of them."""
        batch, states = self._runner.input_batch, self._runner.requests
        extras = [states[name].sampling_params.extra_args for name in batch.req_ids]
        samplings = [extra[SAMPLING] for extra in extras]
        num_rows = counts + 1
        ends = num_rows.cumsum()
        choices = choose_unprocessed(
            logits,
            np.repeat([signed(sampling.seed) for sampling in samplings], num_rows),
            self._runner.positions[rows] + 1,
            np.repeat(np.array([s.temperature for s in samplings], np.float32), num_rows),
        )
        slow = [i for i in np.flatnonzero(~unfinished).tolist() if extras[i][SLOW]]
        if not slow:
            return choices, {}
        spans = [range(ends[index] - num_rows[index], ends[index]) for index in slow]
        places = [place for span in spans for place in span]
        asked_rows = [
            row for i in slow for row in self._rows(i, int(lengths[i]), int(counts[i]), extras[i])
        ]
        tokens, logprobs = choose(logits[places], asked_rows)
        made = zip(tokens, logprobs, strict=True)
        replaced = {}
        for index, span in zip(slow, spans, strict=True):
            pairs = list(islice(made, len(span)))
            asked = [logprob for _, logprob in pairs if logprob is not None]
            replaced[index] = [token for token, _ in pairs], asked
        return choices, replaced

    def _rows(self, index: int, length: int, count: int, extra: Mapping[str, Any]) -> list[Row]:
        tokens = self._runner.input_batch.token_ids_cpu[index, : length + count]
        return [
            Row(extra[SAMPLING], tokens, extra[NUM_PROMPT], position)
            for position in range(length, length + count + 1)
        ]
