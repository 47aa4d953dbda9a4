"""vLLM's scheduler for a drafter: texts that go back, and go on with other tokens.

Which blocks the prefix cache may have is decided here. A named block is never written again, so
what may still be taken back is not named: only prompts, and what lies so far behind a text's end
that no draft can still be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from wisp.errors import InternalError
from wisp.verifier.vllm.scheduler import SeatScheduler

# Tokens at the end of a text that may be drafts. Chosen: twice what a server lets wait for
# verification (`speculation.max_window`); what goes back further is computed from its prefix.
_UNSURE = 128


class DraftScheduler(SeatScheduler):
    """The scheduler of EngineCore (`scheduler_cls`)."""

    def named(self, request: Request) -> int:
        """Its first tokens whose blocks are in the prefix cache: they are not written again."""
        assert self._blocks, "can_park() was asked"
        names: dict[str, int] = self._blocks.num_cached_block
        return names.get(request.request_id, 0) * int(self._blocks.block_size)

    def rewind(self, request: Request, start: int) -> None:
        """Forget its tokens from `start` on, which is behind its prompt and what is named."""
        del request._all_token_ids[start:]
        del request._output_token_ids[start - request.num_prompt_tokens :]
        del request.block_hashes[start // self.kv_cache_manager.block_pool.hash_block_size :]
        request.num_computed_tokens = min(request.num_computed_tokens, start)

    def fork(self, source: Request, target: Request) -> list[tuple[int, int]]:
        """Let a request that has just come begin with what is known of another, as far as their
        texts are one. Returns which blocks are to be copied to which: those without a name."""
        assert self._blocks, "can_park() was asked"
        size = int(self._blocks.block_size)
        num_known = min(int(source.num_computed_tokens), int(target.num_tokens))
        cached, num_cached, *_ = self.kv_cache_manager.get_computed_blocks(target)
        num_hit = min(num_cached, num_known) // size
        if num_known <= num_hit * size:
            return []  # all of it is named, and found when it is seated
        target.status = RequestStatus.RUNNING  # whose blocks are taken as they are
        blocks = self._stock_allocate(
            target,
            0,
            num_new_computed_tokens=num_hit * size,
            new_computed_blocks=self.kv_cache_manager.create_kv_cache_blocks(
                tuple(each[:num_hit] for each in cached.blocks)
            ),
            num_external_computed_tokens=num_known - num_hit * size,
            delay_cache_blocks=True,
        )
        target.status = RequestStatus.WAITING  # the workers have never heard of it
        if blocks is None:
            return []  # there is no room: it is computed
        target.num_computed_tokens = num_known
        lying = self.kv_cache_manager.get_block_ids(source.request_id)[0]
        wanted = self.kv_cache_manager.get_block_ids(target.request_id)[0]
        return list(zip(lying[num_hit : len(wanted)], wanted[num_hit:], strict=True))

    def computed(self, scheduled: SchedulerOutput) -> None:
        """The step is over: name the blocks that are sure."""
        self._places = {}
        for request_id, num_scheduled in scheduled.num_scheduled_tokens.items():
            request = self.requests[request_id]
            request.num_in_flight_tokens -= num_scheduled
            num_sure = max(request.num_prompt_tokens, request.num_tokens - _UNSURE)
            num_sure = min(num_sure, request.num_computed_tokens)
            if num_sure - self.named(request) >= self.block_tokens:
                self.kv_cache_manager.cache_blocks(request, num_sure)

    def make_room(self, requests: Sequence[Request]) -> None:
        """Nothing could be scheduled of these: forks hold blocks before they are seated, and may
        stand in one another's way. All but the first are computed again behind it.

        Raises InternalError if there is nothing more to give.
        """
        ordered = sorted(requests, key=lambda request: float(request.arrival_time))
        if not sum(self._holds_kv(request) for request in ordered[1:]):
            raise InternalError(f"vLLM has no room for any of {len(requests)} texts")
        for request in ordered[1:]:
            self.park(request)
        self._clear_queues()

    def _allocate(self, request: Request, num_new: int, **kwargs: Any) -> Any:
        return super()._allocate(request, num_new, **{**kwargs, "delay_cache_blocks": True})
