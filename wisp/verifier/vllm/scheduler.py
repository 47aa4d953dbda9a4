"""vLLM's scheduler, told by WISP who takes part in a step and with how many tokens.

A session is one resident request. Those of the next step are handed to the stock `schedule`, those
that hold KV as running requests and those that hold none as waiting ones; all others are out of its
sight, keep their KV (wisp/verifier/vllm/resident.py) and cost nothing. So the queues of vLLM are
empty between two steps.

What runs for each request of each step stands between two steps of the GPU. So stock code is not
asked where it could only answer that nothing is to be done, nor for what nobody here reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from wisp.core.drafts import Alternative
from wisp.verifier.vllm import structures, versions
from wisp.verifier.vllm.resident import ResidentScheduler, opened_s


@dataclass(slots=True)
class Place:
    """What one request may do in the next step."""

    request_id: str
    num_tokens: int  # that are computed at most, the draft included
    draft: list[int] = field(default_factory=list)
    num_own: int = 0  # own drafts to make behind what is chosen
    # In place of the first of `draft`, by what the step in flight chooses.
    alternatives: Sequence[Alternative] = ()


class _Everything(set[str]):
    """Contains whatever it is asked for, and keeps nothing."""

    def __contains__(self, item: object) -> bool:
        return True

    def update(self, *others: object) -> None:
        """Stock code adds each request of a step."""


class SeatScheduler(ResidentScheduler):
    """The scheduler of EngineCore (`scheduler_cls`)."""

    need_mamba_block_aligned_split: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Stock code would pad a request of one uncached token to the full number of drafts.
        self.num_spec_tokens = 0
        # Who is not in it gets its tokens copied for the worker, which has them and does not look.
        self.prev_step_scheduled_req_ids = _Everything()
        self._places: dict[str, Place] = {}
        # Stock code asks `_mamba_block_aligned_split` how much of a request's tokens to compute
        # now: the one hook for each request that all versions share.
        self._aligns_mamba = self.need_mamba_block_aligned_split
        self.need_mamba_block_aligned_split = True

    def plan(self, places: Sequence[Place]) -> None:
        """The next step, in any order. Who is seated although it is parked is computed anew."""
        self._places = {place.request_id: place for place in places}
        if self.parking:
            for name in filter(self.parking.has, self._places):
                self.parking.ended(name)
                self.requests[name].num_computed_tokens = 0

    def add_request(self, request: Request) -> None:
        super().add_request(request)
        self._clear_queues()

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        requests = [self.requests[request_id] for request_id in self._places]
        requests.sort(key=opened_s)  # the last one gives way if KV blocks run out
        holding = [r for r in requests if r.status == RequestStatus.RUNNING]
        for request in holding:
            # Stock code drops those that do not fit; beyond num_tokens there is no room.
            request.spec_token_ids = list(self._places[request.request_id].draft)
        self.running = holding
        for request in requests:
            if request.status != RequestStatus.RUNNING:
                self.waiting.add_request(request)
        try:
            scheduled = super().schedule(*args, **kwargs)
        finally:
            self._clear_queues()
        if not self.vllm_config.model_config.uses_mrope:  # which searches a list
            for new in scheduled.scheduled_new_reqs:  # copied whenever it returns to the batch
                new.prompt_token_ids = np.array(new.prompt_token_ids)
        scheduled.wisp_alternatives = {
            name: self._places[name].alternatives
            for name in scheduled.scheduled_spec_decode_tokens
            if self._places[name].alternatives
        }
        if self.parking:
            self.parking.tell(scheduled)
        if self._own:
            self._own.tell(scheduled, self._places, self.requests)
        return scheduled

    def launched(self, scheduled: SchedulerOutput) -> set[str]:
        """The step runs; returns who will have a token from it, whatever it accepts.

        To stock code those are as far as if all drafts were accepted: they can be in the next step.
        """
        self._places = {}
        choosing = set()
        for request_id, num_scheduled in scheduled.num_scheduled_tokens.items():
            request = self.requests[request_id]
            request.num_in_flight_tokens -= num_scheduled
            self._in_flight.setdefault(request_id, []).append(num_scheduled)
            if request.num_computed_tokens >= request.num_tokens + request.num_output_placeholders:
                request.num_output_placeholders += _num_chosen(scheduled, request_id)
                choosing.add(request_id)
        return choosing

    def landed(
        self, scheduled: SchedulerOutput, choosing: set[str], found: Mapping[str, list[int]]
    ) -> None:
        """Append what was chosen to each request. None of them ends here: WISP closes sessions."""
        for request_id in scheduled.num_scheduled_tokens:
            in_flight = self._in_flight[request_id]
            in_flight.pop(0)
            if not in_flight:
                del self._in_flight[request_id]
            request = self.requests.get(request_id)
            if request is None:  # closed while the step ran
                continue
            num_chosen = _num_chosen(scheduled, request_id) if request_id in choosing else 0
            tokens = found.get(request_id, [])
            request.num_output_placeholders -= min(num_chosen, request.num_output_placeholders)
            if request.status == RequestStatus.RUNNING:  # else preempted, with nothing computed
                request.num_computed_tokens -= num_chosen - len(tokens)
            if tokens:
                request.append_output_token_ids(tokens)
                structures.advance(request, tokens)
        if self._own:
            self._own.landed(scheduled, self.requests)

    def forget_all_kv(self) -> None:
        """After a step that failed half-way: no block can be trusted, the tokens can."""
        self._places = {}
        self._in_flight.clear()
        if self._own:
            self._own.forget_all()
        self._clear_queues()
        for request in self.requests.values():
            request.num_output_placeholders = 0
            if self._holds_kv(request):
                self._forget_kv(request)
                self._evicted.append(request.request_id)
        self._clear_queues()
        if not self.reset_prefix_cache():
            raise RuntimeError("vLLM still holds KV blocks although no request does")

    def update_draft_token_ids(self, *args: Any, **kwargs: Any) -> None:
        """Drafts never come from the worker."""

    def _mamba_block_aligned_split(
        self, request: Request, num_new_tokens: int, *args: Any, **kwargs: Any
    ) -> int:
        num_tokens = min(num_new_tokens, self._places[request.request_id].num_tokens)
        if not self._aligns_mamba:
            return num_tokens
        return int(super()._mamba_block_aligned_split(request, num_tokens, *args, **kwargs))

    def _clear_queues(self) -> None:
        self.running = []
        for queue in versions.waiting_queues(self):
            while queue:
                queue.pop_request()
        versions.forget_deferred(self)


def _num_chosen(scheduled: SchedulerOutput, request_id: str) -> int:
    """Tokens that a request is given if all its drafts are accepted."""
    return len(scheduled.scheduled_spec_decode_tokens.get(request_id, ())) + 1
