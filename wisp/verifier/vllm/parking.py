"""Who is parked, in which slots of host memory: the scheduler's side of `HostKv`.

A slot keeps one block. What a session has parked stays there when it returns, until another needs
the room: parking it again copies only what is new, and the block that was not full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus


class Parking:
    """Of requests of one group of full-attention layers, in blocks of `block_tokens` tokens."""

    def __init__(self, manager: Any, allocate: Any, block_tokens: int, num_slots: int) -> None:
        """`allocate`: the stock `allocate_slots` of `manager`."""
        self._manager = manager
        self._allocate = allocate
        self._block_tokens = block_tokens
        self._free = list(range(num_slots))
        self._parked: dict[str, list[int]] = {}  # slots of requests without KV, by request id
        self._kept: dict[str, list[int]] = {}  # those of resident ones: full blocks, oldest first
        self._returned: set[str] = set()  # since they took part in a step
        self._out: list[tuple[int, int]] = []  # copies to make: blocks to slots
        self._back: list[tuple[int, int]] = []  # slots to blocks

    @property
    def num_free(self) -> int:
        """Slots that may be had."""
        return len(self._free) + sum(map(len, self._kept.values()))

    def park(self, request: Request, num_known: int) -> bool:
        """Plan the copies of its first tokens' KV; its blocks may be given away at once."""
        name = request.request_id
        blocks = self._blocks_of(name)[: -(-num_known // self._block_tokens)]
        slots = self._kept.pop(name, [])
        if not self._make_room(len(blocks) - len(slots)):
            self._free += slots
            return False
        num_saved = len(slots)
        while len(slots) < len(blocks):
            slots.append(self._free.pop())
        self._parked[name] = slots
        self._out += zip(blocks[num_saved:], slots[num_saved:], strict=True)
        return True

    def load(self, request: Request, num_known: int) -> bool:
        """Give it blocks, and plan the copies into those that the prefix cache has not kept."""
        name = request.request_id
        slots = self._parked[name]
        request.num_computed_tokens = 0
        cached, num_cached, *_ = self._manager.get_computed_blocks(request)
        num_hit = min(num_cached, num_known - 1) // self._block_tokens
        hit = self._manager.create_kv_cache_blocks(tuple(each[:num_hit] for each in cached.blocks))
        status, request.status = request.status, RequestStatus.RUNNING
        num_hit_tokens = num_hit * self._block_tokens
        blocks = self._allocate(
            request,
            0,
            num_new_computed_tokens=num_hit_tokens,
            new_computed_blocks=hit,
            num_external_computed_tokens=num_known - num_hit_tokens,
        )
        request.num_computed_tokens = num_known
        if blocks is None:
            request.status = status
            return False
        held = self._blocks_of(name)
        self._back += zip(slots[num_hit:], held[num_hit : len(slots)], strict=True)
        del self._parked[name]
        num_full = num_known // self._block_tokens
        self._kept[name], rest = slots[:num_full], slots[num_full:]
        self._free += rest  # its copy is made before any other to this slot
        self._returned.add(name)
        return True

    def ended(self, request_id: str) -> None:
        self._free += self._parked.pop(request_id, [])
        self._free += self._kept.pop(request_id, [])
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
        out, back = self._out, self._back
        self._out, self._back = [], []
        return out, back

    def _make_room(self, num_slots: int) -> bool:
        if num_slots > self.num_free:
            return False
        while len(self._free) < num_slots:
            self._free += self._kept.pop(next(iter(self._kept)))
        return True

    def _blocks_of(self, request_id: str) -> list[int]:
        blocks: list[int] = self._manager.get_block_ids(request_id)[0]
        return blocks
