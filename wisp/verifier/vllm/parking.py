"""Whose KV is in host memory, and which blocks are copied: the scheduler's side of `HostKv`.

What was parked or belonged to a text that has ended stays in its slots until another needs them:
parking again copies only what is new, and a text that begins as another did finds that there.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from wisp.verifier.vllm.host_slots import HostSlots


class Parking:
    """Of requests of one group of full-attention layers, in blocks of `block_tokens` tokens."""

    def __init__(self, manager: Any, allocate: Any, block_tokens: int, num_slots: int) -> None:
        """`allocate`: the stock `allocate_slots` of `manager`."""
        self._manager = manager
        self._allocate = allocate
        self._block_tokens = block_tokens
        self._slots = HostSlots(num_slots)
        self._parked: dict[str, list[Hashable]] = {}  # names of blocks, by request id
        self._returned: set[str] = set()  # since they took part in a step
        self._out: list[tuple[int, int]] = []  # copies to make: blocks to slots
        self._back: list[tuple[int, int]] = []  # slots to blocks

    @property
    def num_free(self) -> int:
        """Slots that may be had."""
        return self._slots.num_free

    def finds(self, request: Request) -> int:
        """Park a request that has just come as far as its text is known here, and is not in the
        prefix cache; returns its tokens. Its last one is always computed: it has a choice."""
        names = self._full_names(request, request.num_tokens - 1)
        num_found = next((i for i, name in enumerate(names) if name not in self._slots), len(names))
        num_cached = self._manager.get_computed_blocks(request)[1]
        if num_found * self._block_tokens <= num_cached:
            return 0
        self._parked[request.request_id] = names[:num_found]
        self._slots.hold(names[:num_found])
        return num_found * self._block_tokens

    def park(self, request: Request, num_known: int) -> bool:
        """Plan the copies of its first tokens' KV; its blocks may be given away at once."""
        names = self._full_names(request, num_known)
        if num_known % self._block_tokens:
            names.append(_tail(request.request_id))
        if not self._hold(request.request_id, names):
            return False
        self._parked[request.request_id] = names
        self._returned.discard(request.request_id)
        return True

    def keep(self, request: Request, num_known: int) -> None:
        """Its text ends: the next turn of the conversation begins with it."""
        names = self._full_names(request, num_known)
        if self._hold(request.request_id, names):
            self._slots.release(names)

    def load(self, request: Request, num_known: int) -> bool:
        """Give it blocks, and plan the copies into those that the prefix cache has not kept."""
        name = request.request_id
        request.num_computed_tokens = 0
        cached, num_cached, *_ = self._manager.get_computed_blocks(request)
        num_hit = min(num_cached, num_known - 1) // self._block_tokens
        num_hit_tokens = num_hit * self._block_tokens
        status, request.status = request.status, RequestStatus.RUNNING
        blocks = self._allocate(
            request,
            0,
            num_new_computed_tokens=num_hit_tokens,
            new_computed_blocks=self._manager.create_kv_cache_blocks(
                tuple(each[:num_hit] for each in cached.blocks)
            ),
            num_external_computed_tokens=num_known - num_hit_tokens,
        )
        request.num_computed_tokens = num_known
        if blocks is None:
            request.status = status
            return False
        if status == RequestStatus.WAITING:  # the workers have never heard of it
            request.status = status
        else:
            self._returned.add(name)
        slots = [self._slots.slot(each) for each in self._parked[name]]
        held = self._blocks_of(name)[: len(slots)]
        self._back += zip(slots[num_hit:], held[num_hit:], strict=True)
        self._release(name)
        return True

    def has(self, request_id: str) -> bool:
        return request_id in self._parked

    def ended(self, request_id: str) -> None:
        if request_id in self._parked:
            self._release(request_id)
        self._returned.discard(request_id)

    def tell(self, scheduled: SchedulerOutput) -> None:
        """Let the workers have the whole block table of who returned: they knew another one."""
        cached = scheduled.scheduled_cached_reqs
        for index, name in enumerate(cached.req_ids):
            if name in self._returned:
                self._returned.discard(name)
                cached.resumed_req_ids.add(name)
                cached.new_block_ids[index] = self._manager.get_block_ids(name)

    def take_copies(self) -> tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]]:
        """Blocks to slots, and slots to blocks; to be made in the order in which they are asked."""
        out, back = self._out, self._back
        self._out, self._back = [], []
        return out, back

    def _hold(self, request_id: str, names: list[Hashable]) -> bool:
        new = self._slots.hold(names)
        if new is None:
            return False
        for name, block in zip(names, self._blocks_of(request_id), strict=False):
            if name in new:
                self._out.append((block, self._slots.slot(name)))
        return True

    def _release(self, request_id: str) -> None:
        names = self._parked.pop(request_id)
        self._slots.release(names)
        if names[-1:] == [_tail(request_id)]:
            self._slots.forget(names[-1])  # its copy is made before any other to this slot

    def _full_names(self, request: Request, num_tokens: int) -> list[Hashable]:
        return list(request.block_hashes[: num_tokens // self._block_tokens])

    def _blocks_of(self, request_id: str) -> list[int]:
        blocks: list[int] = self._manager.get_block_ids(request_id)[0]
        return blocks


def _tail(request_id: str) -> Hashable:
    """The name of a block that is not full: it is nobody else's."""
    return "tail", request_id
