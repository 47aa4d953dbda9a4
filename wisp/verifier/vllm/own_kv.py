"""How far the own drafter's KV of each request is, and what it computes in the next step.

Its KV lies in the blocks of the target's, in layers of its own, so a session that is in no step
keeps it. It is computed for those alone for whom drafts are asked, from where it ends: what others
decoded meanwhile, or the prefix cache held of the target's, is caught up with then.

A head, as EAGLE-3 and MTP have it, cannot catch up: it reads the target's hidden states, which are
gone after a step. So it computes all tokens of each step, whoever asks for drafts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import RequestStatus


@dataclass(slots=True)
class OwnPart:
    """One request that the drafter computes in a step."""

    request_id: str
    start: int  # its KV ends here, as far as it can be used
    num_own: int  # drafts wanted behind what is chosen; 0: KV alone, of the tokens before `stop`
    stop: int = 0
    # The in-flight step before it drafts for the request, too: so its KV ends where the request is
    # when that one is over, `start` as it is planned.
    follows: bool = False


class Seated(Protocol):
    num_own: int


class OwnKv:
    def __init__(self, max_step_tokens: int, max_model_len: int, *, is_head: bool = False) -> None:
        """`max_step_tokens`: that the drafter computes in its first pass of a step, unless it
        `is_head`."""
        self._is_head = is_head
        self._max_step_tokens = max_step_tokens
        self._max_model_len = max_model_len
        self._held: dict[str, int] = {}  # tokens, by request
        self._coming: dict[str, OwnPart] = {}  # drafts in the making, by request

    def tell(
        self, scheduled: SchedulerOutput, places: Mapping[str, Seated], requests: Mapping[str, Any]
    ) -> None:
        """Let the workers know for which requests of a step drafts are asked.

        `requests` are as far as if the step had been taken, and accepted all its drafts.
        """
        starts, room = {}, self._max_step_tokens
        for name, num_tokens in scheduled.num_scheduled_tokens.items():
            num_own, request = places[name].num_own, requests[name]
            end = request.num_computed_tokens
            chooses = end >= request.num_tokens + request.num_output_placeholders
            if num_own and chooses and end + 1 + num_own <= self._max_model_len:
                starts[name] = end - num_tokens  # of its tokens in the step
                room -= num_tokens + 1  # these, and the one that is chosen behind them
        missing = {name: self._num_missing(name, start) for name, start in starts.items()}
        asked = []
        for name in sorted(missing, key=lambda name: missing[name]):
            start = starts[name] - missing[name]
            if self._is_head or missing[name] <= room:
                follows = name in self._coming
                asked.append(OwnPart(name, start, places[name].num_own, follows=follows))
            elif room > 0:  # of a long text so much as there is room for
                asked.append(OwnPart(name, start, 0, start + room))
            room = max(0, room - missing[name])
        scheduled.wisp_asked = asked
        self._coming.update((each.request_id, each) for each in asked if each.num_own)

    def _num_missing(self, request_id: str, start: int) -> int:
        if self._is_head or request_id in self._coming:
            return 0
        return max(0, start - self._held.get(request_id, 0))

    def num_coming(self, request_id: str) -> int:
        """Drafts that the in-flight step makes for it."""
        coming = self._coming.get(request_id)
        return coming.num_own if coming else 0

    def landed(self, scheduled: SchedulerOutput, requests: Mapping[str, Any]) -> None:
        """The step is over, and its requests have what was chosen."""
        parts: list[OwnPart] = scheduled.wisp_asked
        for asked in parts:
            if self._coming.get(asked.request_id) is asked:
                del self._coming[asked.request_id]
            request = requests.get(asked.request_id)
            if request is not None and request.status == RequestStatus.RUNNING:
                self._held[asked.request_id] = request.num_tokens if asked.num_own else asked.stop

    def forget(self, request_id: str) -> None:
        """Its blocks are others' from now on."""
        self._held.pop(request_id, None)
        self._coming.pop(request_id, None)

    def forget_all(self) -> None:
        """After a step that failed."""
        self._held.clear()
        self._coming.clear()
