"""vLLM's scheduler, told by WISP who takes part in a step and with how many tokens.

A session is one resident request. Those of the next step are handed to the stock `schedule`, those
that hold KV as running requests and those that hold none as waiting ones; all others are out of its
sight, keep their KV and cost nothing. So the queues of vLLM are empty between two steps.

When KV blocks run out, `_allocate` takes those of the session outside the step whose next token is
due last. Its tokens stay in the request, and its blocks in the prefix cache until they are needed:
it resumes when it is next seated. Only if nobody outside the step holds KV does the stock rule
apply: the last of the step, which is the latest due, gives way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from wisp.verifier.vllm import versions


@dataclass(slots=True)
class Place:
    """What one request may do in the next step."""

    request_id: str
    num_tokens: int  # that are computed at most, the draft included
    draft: list[int] = field(default_factory=list)


class SeatScheduler(Scheduler):  # type: ignore[misc]
    """The scheduler of EngineCore (`scheduler_cls`)."""

    need_mamba_block_aligned_split: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Stock code would pad a request of one uncached token to the full number of drafts.
        self.num_spec_tokens = 0
        self.due_s: Callable[[str], float] = lambda request_id: 0.0  # of a request's next token
        self.num_evictions = 0
        self._places: dict[str, Place] = {}
        # Stock code asks `_mamba_block_aligned_split` how much of a request's tokens to compute
        # now: the one hook for each request that all versions share.
        self._aligns_mamba = self.need_mamba_block_aligned_split
        self.need_mamba_block_aligned_split = True
        self._stock_allocate = self.kv_cache_manager.allocate_slots
        self.kv_cache_manager.allocate_slots = self._allocate

    def plan(self, places: Sequence[Place]) -> None:
        """The next step, the most urgent first."""
        self._places = {place.request_id: place for place in places}

    @property
    def num_blocks(self) -> int:
        """KV blocks in all; one of the pool is vLLM's null block."""
        return int(self.kv_cache_manager.block_pool.num_gpu_blocks) - 1

    @property
    def num_free_blocks(self) -> int:
        return int(self.kv_cache_manager.block_pool.get_num_free_blocks())

    def blocks_for(self, num_tokens: int) -> int:
        """KV blocks of a sequence of so many tokens."""
        groups = self.kv_cache_config.kv_cache_groups
        return sum(-(-num_tokens // group.kv_cache_spec.block_size) for group in groups)

    def add_request(self, request: Request) -> None:
        super().add_request(request)
        self._clear_queues()

    def has_requests(self) -> bool:
        return bool(self._places)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        requests = [self.requests[request_id] for request_id in self._places]
        holding = [r for r in requests if r.status == RequestStatus.RUNNING]
        for request in holding:
            # Stock code drops those that do not fit; beyond num_tokens there is no room.
            request.spec_token_ids = list(self._places[request.request_id].draft)
        self.running = holding
        for request in requests:
            if request.status != RequestStatus.RUNNING:
                self.waiting.add_request(request)
        try:
            return super().schedule(*args, **kwargs)
        finally:
            self._clear_queues()

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().update_from_output(*args, **kwargs)
        finally:
            self._places = {}

    def update_draft_token_ids(self, *args: Any, **kwargs: Any) -> None:
        """Drafts never come from the worker."""

    def keep_prefix(self, request: Request) -> None:
        """Name the request's full blocks in the prefix cache, before they are freed."""
        if request.status == RequestStatus.RUNNING:
            self.kv_cache_manager.cache_blocks(request, request.num_computed_tokens)

    def evict(self, request: Request) -> None:
        """Free the KV of a request that takes no part in the step; it keeps its tokens."""
        self.keep_prefix(request)
        self._preempt_request(request, time.monotonic())
        self.waiting.remove_request(request)
        self.num_evictions += 1

    def forget_all_kv(self) -> None:
        """After a step that failed half-way: no block can be trusted, the tokens can."""
        self._places = {}
        self._clear_queues()
        for request in self.requests.values():
            if request.status == RequestStatus.RUNNING:
                self._preempt_request(request, time.monotonic())
        self._clear_queues()
        if not self.reset_prefix_cache():
            raise RuntimeError("vLLM still holds KV blocks although no request does")

    def _allocate(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        while (blocks := self._stock_allocate(request, *args, **kwargs)) is None:
            victim = self._victim()
            if victim is None:
                return None
            self.evict(victim)
        return blocks

    def _victim(self) -> Request | None:
        idle = (
            request
            for request in self.requests.values()
            if request.status == RequestStatus.RUNNING and request.request_id not in self._places
        )
        return max(idle, key=lambda request: self.due_s(request.request_id), default=None)

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
