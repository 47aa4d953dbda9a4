"""Sessions as requests of vLLM: what a seat asks of one, and what came of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping

from msgspec import structs
from vllm.lora.request import LoRARequest
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request

from wisp.core.batch import Seat
from wisp.core.drafts import Source
from wisp.core.own_drafts import COMING
from wisp.core.session import Session
from wisp.errors import InternalError
from wisp.verifier.base import Facts, Outcome
from wisp.verifier.vllm import compiling
from wisp.verifier.vllm.launched import Collected
from wisp.verifier.vllm.params import sampling_params
from wisp.verifier.vllm.scheduler import Place, SeatScheduler
from wisp.verifier.vllm.structures import Grammars, allowed


class Requests:
    """Of the open sessions: each is one resident request."""

    def __init__(
        self,
        core: EngineCore,
        scheduler: SeatScheduler,
        facts: Facts,
        adapters: Mapping[str, LoRARequest],
    ) -> None:
        self.names: dict[int, str] = {}  # of requests, by session id
        self.grammars = Grammars()
        self._sessions: dict[str, Session] = {}  # by request id
        self._core = core
        self._scheduler = scheduler
        self._facts = facts
        self._adapters = adapters
        self._numbers = itertools.count()  # never the ids of sessions alone: one may be reopened
        self._compiler: compiling.Compiler | None = None  # made for the first structure

    def open(self, session: Session) -> Request:
        if session.sampling.structure and self._compiler is None:
            self._compiler = compiling.use(self._core.structured_output_manager)
        request_id = f"{session.id}-{next(self._numbers)}"
        params = sampling_params(session.sampling, session.num_prompt, self._facts.max_model_len)
        request, _ = self._core.preprocess_add_request(
            EngineCoreRequest(
                request_id=request_id,
                prompt_token_ids=list(session.tokens),
                mm_features=None,
                sampling_params=params,
                pooling_params=None,
                arrival_time=time.time(),
                lora_request=self._adapters[session.adapter] if session.adapter else None,
                cache_salt=None,
                data_parallel_rank=None,
            )
        )
        self._core.add_request(request)
        self.grammars.opened(request, session.tokens[session.num_prompt :])
        self.names[session.id] = request_id
        self._sessions[request_id] = session
        return request

    def of(self, session: Session) -> Request:
        """Raises InternalError if it is not what the session is."""
        request = self._scheduler.requests.get(self.names[session.id])
        if request is None:
            raise InternalError(f"vLLM ended session {session.id} before WISP did")
        if request.num_tokens != len(session.tokens):
            raise InternalError(
                f"session {session.id} has {len(session.tokens)} tokens, vLLM {request.num_tokens}"
            )
        return request

    def sessions(self, names: Iterable[str]) -> list[Session]:
        """Those of these requests that are open."""
        return [self._sessions[name] for name in names if name in self._sessions]

    def close(self, session: Session) -> str | None:
        """The name of its request, which vLLM is still to be told of; None: it is not open."""
        request_id = self.names.pop(session.id, None)
        if request_id is not None:
            del self._sessions[request_id]
            self.grammars.closed(request_id)
        return request_id

    def stop(self) -> None:
        if self._compiler:
            self._compiler.stop()

    def place(self, seat: Seat) -> Place:
        request = self.of(seat.session)
        place = Place(request.request_id, seat.num_tokens, num_own=seat.num_own)
        num_known = request.num_tokens + request.num_output_placeholders
        num_missing = num_known - request.num_computed_tokens
        if seat.num_drafts and num_missing <= seat.num_context:  # else its KV was taken meanwhile
            place.draft = self._drafts(seat, request)
            self._add_alternatives(place, seat)
        return place

    def _drafts(self, seat: Seat, request: Request) -> list[int]:
        if COMING in seat.draft[:1] and seat.source is Source.OWN:
            return seat.draft[: self._scheduler.num_coming(request.request_id)]
        known = known_tokens(seat.draft, self._facts.vocab_size)
        return allowed(request, seat.session.sampling, known)

    def _add_alternatives(self, place: Place, seat: Seat) -> None:
        """They are put in place of the draft, so that there must be room for the longest."""
        place.alternatives = [
            structs.replace(each, drafts=known_tokens(each.drafts, self._facts.vocab_size))
            for each in seat.alternatives
        ]
        longest = max((each.drafts for each in place.alternatives), key=len, default=[])
        place.draft = place.draft + longest[len(place.draft) :]

    def outcome(self, session: Session, found: Collected) -> Outcome:
        request_id = self.names.get(session.id)
        if request_id is None:  # closed while the step ran
            return Outcome([])
        num_computed = self._scheduler.num_held(self._scheduler.requests[request_id])
        tokens = found.tokens.get(request_id, [])
        return Outcome(
            tokens, found.logprobs.get(request_id), num_computed, found.own.get(request_id)
        )


def known_tokens(draft: list[int], vocab_size: int) -> list[int]:
    """The draft up to the first id that is no token: it could not be accepted, only do harm."""
    if all(0 <= token < vocab_size for token in draft):
        return list(draft)
    return draft[: next(i for i, token in enumerate(draft) if not 0 <= token < vocab_size)]
