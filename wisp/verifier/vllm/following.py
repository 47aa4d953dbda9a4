"""A step planned as if the one in flight accepted all its drafts, put right on the GPU.

While a step runs, vLLM's scheduler and batch have each of its requests as far as if all its drafts
were accepted. What was rejected the device alone knows: it moves such requests back before the step
behind reads or writes anything, and lets each begin with the token chosen last. Their drafts stay
where they were put, behind that token, unless alternatives were given for just what was chosen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wisp.core.drafts import Alternative
from wisp.core.own_drafts import COMING
from wisp.sampling.choice import moved
from wisp.verifier.vllm.launched import Launched


class Following:
    """Hooks into the model runner's batch; `launched`: the steps in flight, the last one last."""

    def __init__(self, runner: Any, launched: deque[Launched]) -> None:
        self._runner = runner
        self._launched = launched
        self._in_both: NDArray[np.int64]  # [n]: where each request is in the in-flight step, or -1
        # On the device, [n]: by how much each request was moved back; None: nobody was.
        self.back: Tensor | None = None
        batch = runner.input_batch
        batch.update_req_spec_token_ids = self._take_drafts
        self._drafts: dict[str, list[int]] = {}  # of the step that is prepared, by request
        self._stock_refresh = batch.refresh_metadata
        batch.refresh_metadata = self._place_drafts
        self._stock_slot_mapping = batch.block_table.compute_slot_mapping
        batch.block_table.compute_slot_mapping = self._compute_slot_mapping

    def give_tokens(self, starts: NDArray[np.int64]) -> None:
        """Let requests begin with the tokens that the in-flight step chooses for them last.

        starts: [n], where each request's tokens begin in the step.
        """
        if not self._launched:
            return
        rows = np.flatnonzero(self._in_both >= 0)
        if len(rows) == 0:
            return
        last = self._launched[-1].last
        sources, targets = self._in_both[rows], starts[rows]
        inputs = self._runner.input_ids.gpu
        if np.array_equal(sources, targets) and targets[-1] == len(targets) - 1:
            inputs[: len(targets)].copy_(last[: len(targets)])
        else:
            where = moved(np.stack([sources, targets]), inputs.device)
            inputs.index_copy_(0, where[1], last[where[0]].to(inputs.dtype))

    def give_own(
        self, starts: NDArray[np.int64], scheduled: Mapping[str, list[int]]
    ) -> Collection[str]:
        """Write the own drafts that the in-flight step makes behind those tokens.

        `scheduled`: drafts of the step, by request id. Returns who gets them.
        """
        own = self._launched[-1].own if self._launched else None
        coming = {name for name, drafts in scheduled.items() if COMING in drafts[:1]}
        if own is None or not coming:
            return ()
        places = self._runner.input_batch.req_id_to_index
        found = [
            (own.rows[name], int(starts[places[name]]), len(scheduled[name])) for name in coming
        ]
        table = np.array(found, np.int64)
        rows, counts = np.repeat(table[:, :2], table[:, 2], axis=0), table[:, 2]
        depth = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
        where = moved(np.stack([rows[:, 0], depth, rows[:, 1] + 1 + depth]), own.made.device)
        inputs = self._runner.input_ids.gpu
        inputs.index_copy_(0, where[2], own.made[where[0], where[1]].to(inputs.dtype))
        return coming

    def give_drafts(
        self,
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        alternatives: Mapping[str, Sequence[Alternative]],
    ) -> None:
        """Put those in place that fit what the in-flight step chooses.

        starts, ends: [n], where each request's tokens are in the step; its drafts are all but one.
        """
        if not self._launched or not alternatives:
            return
        before = self._launched[-1]
        cases: list[tuple[int, int, int]] = []  # place in flight, drafts rejected, the next choice
        drafts: list[tuple[int, int, int]] = []  # number of the case, place in the step, token
        for name, found in alternatives.items():
            row = self._runner.input_batch.req_id_to_index[name]
            place, places = int(self._in_both[row]), range(starts[row] + 1, ends[row])
            for each in found if place >= 0 else ():
                drafts += [(len(cases), *pair) for pair in zip(places, each.drafts, strict=False)]
                num_rejected = int(before.counts[place]) - each.num_accepted
                cases.append((place, num_rejected, each.token))
        if drafts:
            self._put(before, np.array(cases), np.array(drafts))

    def _put(self, before: Launched, cases: NDArray[np.int64], drafts: NDArray[np.int64]) -> None:
        """The columns of both are those of `give_drafts`. Of two cases of a request one applies at
        most, so that what they add to a place is what one of them adds."""
        inputs = self._runner.input_ids.gpu
        place, num_rejected, token = moved(cases.T.copy(), inputs.device)
        number, where, value = moved(drafts.T.copy(), inputs.device)
        applies = before.last[place] == token
        rejected = 0 if before.rejected is None else before.rejected[place]
        applies &= num_rejected == rejected
        change = torch.where(applies[number], value - inputs[where], 0)
        inputs.index_add_(0, where, change.to(inputs.dtype))

    def _take_drafts(self, request: Any, drafts: Mapping[str, list[int]]) -> None:
        """Called for each request of a step, before rows of the batch are moved."""
        draft = drafts.get(request.req_id, ())
        request.prev_num_draft_len = len(draft)
        batch = self._runner.input_batch
        batch.spec_token_ids[batch.req_id_to_index[request.req_id]] = list(draft)
        if draft:
            self._drafts[request.req_id] = list(draft)

    def _place_drafts(self) -> None:
        """Write the drafts behind the tokens of their requests, those still to be chosen included:
        when all rows are where they stay, as no more of a moved row is copied than is known of it.
        """
        batch = self._runner.input_batch
        for name, draft in self._drafts.items():
            row = batch.req_id_to_index[name]
            start = batch.num_tokens_no_spec[row]
            if self._launched:
                start += self._launched[-1].num_chosen(name)
            batch.token_ids_cpu[row, start : start + len(draft)] = draft
            batch.is_token_ids[row, start : start + len(draft)] = True
        self._drafts.clear()
        self._stock_refresh()

    def _compute_slot_mapping(self, num_reqs: int, starts: Tensor, positions: Tensor) -> None:
        """Called for each step, as soon as the GPU has been told where its tokens stand."""
        self._in_both = self._places_in_flight(num_reqs)
        self.back = None
        if self._launched and (rejected := self._launched[-1].rejected) is not None:
            places = moved(self._in_both, rejected.device)
            back = self.back = torch.where(places >= 0, rejected[places.clamp(min=0)], 0)
            rows = self._runner.req_indices.gpu[: len(positions)]
            positions -= back[rows]
            self._runner.seq_lens[:num_reqs] -= back
        self._stock_slot_mapping(num_reqs, starts, positions)

    def _places_in_flight(self, num_reqs: int) -> NDArray[np.int64]:
        if not self._launched:
            return np.full(num_reqs, -1)
        step, names = self._launched[-1], self._runner.input_batch.req_ids
        if names == step.request_ids:
            found = np.arange(num_reqs)
        else:
            found = np.array([step.places.get(name, -1) for name in names])
        found[step.unfinished[found] & (found >= 0)] = -1
        return found
