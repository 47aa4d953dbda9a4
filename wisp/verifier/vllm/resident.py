"""Which requests of vLLM hold KV, and who gives its own up for others.

Who holds KV keeps it until it is parked: then it is no request that stock code may see, until it is
loaded. When blocks run out all the same, as texts grow, the session opened last gives way: in
`_allocate` the last of those outside the step, else, by the stock rule, the last of the step. Its
tokens stay in the request, and its blocks in the prefix cache until they are needed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.request import Request, RequestStatus

from wisp.verifier.vllm.own_kv import OwnKv, Seated
from wisp.verifier.vllm.parking import Parking


class ResidentScheduler(Scheduler):  # type: ignore[misc]
    """vLLM's scheduler, as far as it is about KV; who takes part in a step is said by others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.num_evictions = 0
        self._evicted: list[str] = []  # requests, since this was asked last
        self._places: Mapping[str, Seated] = {}  # who is in the next step, by request
        # Tokens that steps in flight compute, of each request that is in one.
        self._in_flight: dict[str, list[int]] = {}
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

    def blocks_for(self, num_tokens: int) -> int:
        """KV blocks of a sequence of so many tokens."""
        groups = self.kv_cache_config.kv_cache_groups
        return sum(-(-num_tokens // group.kv_cache_spec.block_size) for group in groups)

    def is_in_flight(self, request_id: str) -> bool:
        return request_id in self._in_flight

    def num_held(self, request: Request) -> int:
        """Tokens whose KV is there once the steps that have landed are all that ran."""
        num_computing = sum(self._in_flight.get(request.request_id, ()))
        return max(0, int(request.num_computed_tokens) - num_computing)

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

    def finds(self, request: Request) -> int:
        """Of a request just added: its first tokens whose KV is in host memory; it is parked."""
        num_found = self.parking.finds(request) if self.parking else 0
        request.num_computed_tokens = num_found
        return num_found

    def ends(self, request: Request) -> None:
        """What there is of its KV may serve the next turn of the same conversation."""
        num_known = min(self.keep_prefix(request), self.num_held(request))
        if self.parking:
            self.parking.keep(request, num_known)

    def keep_prefix(self, request: Request) -> int:
        """Name the request's full blocks in the prefix cache, before they are freed.

        Returns how many of its tokens have KV.
        """
        if request.status != RequestStatus.RUNNING:
            return 0
        num_known = min(request.num_computed_tokens, request.num_tokens)  # while a step runs
        self.kv_cache_manager.cache_blocks(request, num_known)
        return int(num_known)

    def evict(self, request: Request) -> None:
        """Free the KV of a request that takes no part in the step; it keeps its tokens."""
        self._free_kv(request)
        self._evicted.append(request.request_id)
        self.num_evictions += 1

    def take_evicted(self) -> list[str]:
        """The requests that lost their KV to others' growing texts since this was asked last."""
        evicted, self._evicted = self._evicted, []
        return evicted

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
        return max(idle, key=opened_s, default=None)

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


def opened_s(request: Request) -> float:
    return float(request.arrival_time)
