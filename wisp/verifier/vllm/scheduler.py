"""vLLM's scheduler, told by WISP who takes part in a step and with how many tokens.

A session is one resident request. Those of the next step are handed to the stock `schedule`, those
that hold KV as running requests and those that hold none as waiting ones; all others are out of its
sight, keep their KV and cost nothing. So the queues of vLLM are empty between two steps.

Who holds KV keeps it until it is parked: then it is no request that stock code may see, until it is
loaded. When blocks run out all the same, as texts grow, the session opened last gives way: in
`_allocate` the last of those outside the step, else, by the stock rule, the last of the step. Its
tokens stay in the request, and its blocks in the prefix cache until they are needed.

What runs for each request of each step stands between two steps of the GPU. So stock code is not
asked where it could only answer that nothing is to be done, nor for what nobody here reads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.request import Request, RequestStatus

from wisp.core.drafts import Alternative
from wisp.verifier.vllm import structures, versions
from wisp.verifier.vllm.own_kv import OwnKv
from wisp.verifier.vllm.parking import Parking


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


class SeatScheduler(Scheduler):  # type: ignore[misc]
    """The scheduler of EngineCore (`scheduler_cls`)."""

    need_mamba_block_aligned_split: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Stock code would pad a request of one uncached token to the full number of drafts.
        self.num_spec_tokens = 0
        self.num_evictions = 0
        self._evicted: list[str] = []  # requests, since this was asked last
        # Tokens that steps in flight compute, of each request that is in one.
        self._in_flight: dict[str, list[int]] = {}
        # Who is not in it gets its tokens copied for the worker, which has them and does not look.
        self.prev_step_scheduled_req_ids = _Everything()
        self._places: dict[str, Place] = {}
        # Stock code asks `_mamba_block_aligned_split` how much of a request's tokens to compute
        # now: the one hook for each request that all versions share.
        self._aligns_mamba = self.need_mamba_block_aligned_split
        self.need_mamba_block_aligned_split = True
        self._stock_allocate = self.kv_cache_manager.allocate_slots
        self.kv_cache_manager.allocate_slots = self._allocate
        managers = self.kv_cache_manager.coordinator.single_type_managers
        self._blocks = (
            managers[0] if [type(m) for m in managers] == [FullAttentionManager] else None
        )
        self.parking: Parking | None = None
        self.num_lookahead_tokens = 0  # of all; `_allocate` counts those of each
        self._own: OwnKv | None = None

    def drafts_own(
        self, max_step_tokens: int, max_model_len: int, *, is_head: bool = False
    ) -> None:
        """There is an own drafter, which computes so many tokens in a step, and of one text.

        `is_head`: see `OwnKv`.
        """
        self._own = OwnKv(max_step_tokens, max_model_len, is_head=is_head)

    def num_coming(self, request_id: str) -> int:
        """Own drafts that the in-flight step makes for a request."""
        return self._own.num_coming(request_id) if self._own else 0

    def plan(self, places: Sequence[Place]) -> None:
        """The next step, in any order. Who is seated although it is parked is computed anew."""
        self._places = {place.request_id: place for place in places}
        if self.parking:
            for name in filter(self.parking.has, self._places):
                self.parking.ended(name)
                self.requests[name].num_computed_tokens = 0

    @property
    def num_blocks(self) -> int:
        """KV blocks in all; one of the pool is vLLM's null block."""
        return int(self.kv_cache_manager.block_pool.num_gpu_blocks) - 1

    @property
    def num_free_blocks(self) -> int:
        return int(self.kv_cache_manager.block_pool.get_num_free_blocks())

    @property
    def block_tokens(self) -> int:
        """Of a block, if one of each group of layers counts as one."""
        groups = self.kv_cache_config.kv_cache_groups
        return max(1, int(1.0 / sum(1.0 / group.kv_cache_spec.block_size for group in groups)))

    def is_in_flight(self, request_id: str) -> bool:
        return request_id in self._in_flight

    def blocks_for(self, num_tokens: int) -> int:
        """KV blocks of a sequence of so many tokens."""
        groups = self.kv_cache_config.kv_cache_groups
        return sum(-(-num_tokens // group.kv_cache_spec.block_size) for group in groups)

    def add_request(self, request: Request) -> None:
        super().add_request(request)
        self._clear_queues()

    def can_park(self) -> bool:
        """Whether all KV is that of one group of full-attention layers."""
        return self._blocks is not None

    def parks(self, num_slots: int) -> None:
        """From now on the KV of sessions may be parked in so many blocks of host memory."""
        assert self._blocks, "can_park() was asked"
        self.parking = Parking(
            self.kv_cache_manager, self._stock_allocate, self._blocks.block_size, num_slots
        )

    def park(self, request: Request) -> int:
        """Take its KV away, in the hope that it is kept; returns of how many tokens it is."""
        if not self._holds_kv(request):
            return 0  # it was evicted meanwhile
        num_known = self.num_held(request)
        is_kept = self.parking is not None and self.parking.park(request, num_known)
        self._free_kv(request)
        if is_kept:
            request.num_computed_tokens = num_known
        return num_known if is_kept else 0

    def load(self, request: Request) -> int:
        """Returns for how many tokens its KV is there again; 0: there is no room."""
        assert self.parking, "nobody else was parked"
        num_known = request.num_computed_tokens
        return num_known if self.parking.load(request, num_known) else 0

    def take_evicted(self) -> list[str]:
        """The requests that lost their KV to others' growing texts since this was asked last."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        requests = [self.requests[request_id] for request_id in self._places]
        requests.sort(key=_opened)  # the last one gives way if KV blocks run out
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

    def num_held(self, request: Request) -> int:
        """Tokens whose KV is there once the steps that have landed are all that ran."""
        num_computing = sum(self._in_flight.get(request.request_id, ()))
        return max(0, int(request.num_computed_tokens) - num_computing)

    def update_draft_token_ids(self, *args: Any, **kwargs: Any) -> None:
        """Drafts never come from the worker."""

    def keep_prefix(self, request: Request) -> int:
        """Name the request's full blocks in the prefix cache, before they are freed.

        Returns how many of its tokens have KV.
        """
        if request.status != RequestStatus.RUNNING:
            return 0
        num_known = min(request.num_computed_tokens, request.num_tokens)  # while a step runs
        self.kv_cache_manager.cache_blocks(request, num_known)
        return int(num_known)

    def ends(self, request: Request) -> None:
        """What there is of its KV may serve the next turn of the same conversation."""
        num_known = min(self.keep_prefix(request), self.num_held(request))
        if self.parking:
            self.parking.keep(request, num_known)

    def finds(self, request: Request) -> int:
        """Of a request just added: its first tokens whose KV is in host memory; it is parked."""
        num_found = self.parking.finds(request) if self.parking else 0
        request.num_computed_tokens = num_found
        return num_found

    def evict(self, request: Request) -> None:
        """Free the KV of a request that takes no part in the step; it keeps its tokens."""
        self._free_kv(request)
        self._evicted.append(request.request_id)
        self.num_evictions += 1

    def _free_kv(self, request: Request) -> None:
        if request.status != RequestStatus.RUNNING:  # loaded, and in no step yet
            self.kv_cache_manager.free(request)
            request.num_computed_tokens = 0
            return
        self.keep_prefix(request)
        self._preempt_request(request, time.monotonic())
        self.waiting.remove_request(request)

    def _forget_kv(self, request: Request) -> None:
        if request.status == RequestStatus.RUNNING:
            self._preempt_request(request, time.monotonic())
        else:
            self._free_kv(request)

    def _holds_kv(self, request: Request) -> bool:
        blocks: list[int] = self.kv_cache_manager.get_block_ids(request.request_id)[0]
        return bool(blocks)

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

    def _allocate(self, request: Request, num_new: int, **kwargs: Any) -> Any:
        num_own = self._places[request.request_id].num_own
        if self._has_room(request, num_new + num_own):
            return self.kv_cache_manager.empty_kv_cache_blocks
        kwargs["num_lookahead_tokens"] = num_own  # where the drafts' KV will lie
        while (blocks := self._stock_allocate(request, num_new, **kwargs)) is None:
            victim = self._victim()
            if victim is None:
                return None
            self.evict(victim)
        return blocks

    def _has_room(self, request: Request, num_new: int) -> bool:
        """The step needs no new block.

        A block that it fills gets its name in the prefix cache with the next one that is needed, or
        before they are freed (`keep_prefix`): until then nobody but the request itself has use for
        it.
        """
        if self._blocks is None or request.status != RequestStatus.RUNNING:
            return False
        end = request.num_computed_tokens + num_new
        num_held = len(self._blocks.req_to_blocks[request.request_id])
        return bool(end <= num_held * self._blocks.block_size)

    def _victim(self) -> Request | None:
        idle = (
            request
            for request in self.requests.values()
            if request.status == RequestStatus.RUNNING
            and request.request_id not in self._places
            and request.request_id not in self._in_flight
        )
        return max(idle, key=_opened, default=None)

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if self._own:
            self._own.forget(request.request_id)
        super()._preempt_request(request, *args, **kwargs)

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if self.parking:
            self.parking.ended(request.request_id)
        if self._own:
            self._own.forget(request.request_id)
        return super()._free_request(request, *args, **kwargs)

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


def _opened(request: Request) -> float:
    return float(request.arrival_time)


def _num_chosen(scheduled: SchedulerOutput, request_id: str) -> int:
    """Tokens that a request is given if all its drafts are accepted."""
    return len(scheduled.scheduled_spec_decode_tokens.get(request_id, ())) + 1
