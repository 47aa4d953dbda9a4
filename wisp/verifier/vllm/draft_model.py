"""A drafter on vLLM: numbered slots of texts, of which any number goes on in one batched step.

It is the engine that serves a target, without drafts of its own: each slot is a resident request of
vLLM, told by WISP's scheduler whether it takes part. What a text has in common with another is
computed once, by vLLM's prefix cache; a fork copies the few blocks that are not in it.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.request import Request

from wisp.core.extension import Extension, Fork, Ranking
from wisp.errors import ConfigError, InternalError
from wisp.models.draft_vocabulary import Vocabulary
from wisp.verifier.vllm.draft_scheduler import DraftScheduler
from wisp.verifier.vllm.options import draft_args
from wisp.verifier.vllm.scheduler import Place
from wisp.verifier.vllm.start import start

log = logging.getLogger(__name__)


class DraftModel:
    """One caller, one thread. `options` are engine arguments of vLLM."""

    def __init__(
        self,
        directory: str | Path,
        *,
        max_slots: int,
        max_model_len: int | None,
        memory_share: float,
        dtype: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises ConfigError if vLLM cannot serve the model."""
        self._core = start(
            draft_args(
                Path(directory),
                options or {},
                max_slots=max_slots,
                max_model_len=max_model_len,
                memory_share=memory_share,
                dtype=dtype,
            ),
            (),
        )
        scheduler = self._core.scheduler
        assert isinstance(scheduler, DraftScheduler)
        self.scheduler = scheduler
        if not scheduler.can_park():
            self._core.shutdown()
            raise ConfigError(
                f"the engine 'vllm' drafts with models of plain full attention, and {directory} "
                "is another one: leave out 'engine'"
            )
        config = self._core.vllm_config.model_config
        self.num_logits = int(config.get_vocab_size())
        self._limit = int(config.max_model_len)
        self.max_model_len = self._limit - 1  # vLLM keeps room for one token that it would choose
        self._numbers = itertools.count()
        self._slots: dict[int, Request] = {}
        self._stale: dict[str, int] = {}  # where the tokens begin that the workers do not know

    def speak(self, vocabulary: Vocabulary) -> None:
        """To be called once, before all others: which of its logits count, and for what."""
        ids = None if vocabulary.ids is None else vocabulary.ids.tolist()
        self._core.collective_rpc("wisp_install", args=(vocabulary.size, ids))

    def extend(
        self, ended: Sequence[int], forks: Sequence[Fork], extensions: Sequence[Extension]
    ) -> Ranking:
        """Forget the slots that have ended, then fork, then go on; a row for each extension, of
        which there is one at least.

        Of an extension that raises, the slots are empty afterwards; all others keep their texts.
        """
        for slot in ended:
            self._drop(slot)
        try:
            for fork in forks:
                self._fork(fork)
            names = [self._take(each) for each in extensions]
            noise = {
                name: (each.seed, each.temperature)
                for name, each in zip(names, extensions, strict=True)
            }
            found: dict[str, tuple[Ranking, int]] = {}
            while missing := [name for name in names if name not in found]:
                for row, (name, ranking) in enumerate(self._step(missing, noise)):
                    found[name] = ranking, row
        except Exception:
            self._recover([each.slot for each in extensions])
            raise
        return _stacked([found[name] for name in names])

    def shutdown(self) -> None:
        for slot in list(self._slots):
            self._drop(slot)
        self._core.shutdown()

    def _step(
        self, names: Sequence[str], noise: Mapping[str, tuple[int, float]]
    ) -> list[tuple[str, Ranking]]:
        """Of those whose text is computed to its end: the ranking whose next row is theirs."""
        requests = [self.scheduler.requests[name] for name in names]
        self.scheduler.plan(
            [Place(r.request_id, r.num_tokens - r.num_computed_tokens) for r in requests]
        )
        scheduled = self.scheduler.schedule()
        scheduled.wisp_noise = noise
        scheduled.wisp_tokens = {
            name: (first, self.scheduler.requests[name].all_token_ids[first:])
            for name in scheduled.num_scheduled_tokens
            if (first := self._stale.pop(name, None)) is not None
        }
        executor = self._core.model_executor
        if executor.execute_model(scheduled, non_block=True).result() is None:
            executor.sample_tokens(None)
        self.scheduler.computed(scheduled)
        if not scheduled.total_num_scheduled_tokens:
            self.scheduler.make_room(requests)
            return []
        found = self._core.collective_rpc("wisp_ranking")[0]
        if found is None:
            return []
        ranked, ranking = found
        return [(name, ranking) for name in ranked]

    def _take(self, extension: Extension) -> str:
        """Returns the request whose text it is now."""
        slot, begin, tokens = extension.slot, extension.start, extension.tokens
        request = self._slots.get(slot)
        known: list[int] = []
        if request is not None:
            sure = max(request.num_prompt_tokens, self.scheduler.named(request))
            if sure <= begin <= request.num_tokens:
                self.scheduler.rewind(request, begin)
                request.append_output_token_ids(tokens)
                self._is_stale(request, begin)
                return str(request.request_id)
            known = list(request.all_token_ids[:begin])
            self._drop(slot)
        if len(known) < begin:
            raise InternalError(f"slot {slot} holds {len(known)} tokens, not {begin}")
        return str(self._add(slot, [*known, *tokens]).request_id)

    def _fork(self, fork: Fork) -> None:
        source = self._slots[fork.source]
        self._drop(fork.target)
        text = source.all_token_ids[: fork.num_tokens]
        request = self._add(fork.target, text[: source.num_prompt_tokens])
        if rest := text[source.num_prompt_tokens :]:
            request.append_output_token_ids(rest)
            self._is_stale(request, request.num_prompt_tokens)
        if moves := self.scheduler.fork(source, request):
            self._core.collective_rpc("wisp_copy", args=(moves,))

    def _is_stale(self, request: Request, start: int) -> None:
        name = request.request_id
        self._stale[name] = min(start, self._stale.get(name, start))

    def _add(self, slot: int, tokens: Sequence[int]) -> Request:
        request, _ = self._core.preprocess_add_request(
            EngineCoreRequest(
                request_id=f"{slot}-{next(self._numbers)}",
                prompt_token_ids=list(tokens),
                mm_features=None,
                sampling_params=SamplingParams(
                    temperature=0.0, max_tokens=self._limit, ignore_eos=True, detokenize=False
                ),
                pooling_params=None,
                arrival_time=time.time(),
                lora_request=None,
                cache_salt=None,
                data_parallel_rank=None,
            )
        )
        request.prefill_stats = None  # of which vLLM wants that nothing but a prompt was cached
        self._core.add_request(request)
        self._slots[slot] = request
        return request

    def _drop(self, slot: int) -> None:
        """What was computed of it may serve other texts that begin so."""
        request = self._slots.pop(slot, None)
        if request is None:
            return
        self._stale.pop(request.request_id, None)
        self.scheduler.ends(request)
        self._core.abort_requests([request.request_id])

    def _recover(self, slots: Sequence[int]) -> None:
        """After a step that failed: no KV can be trusted, the texts of the others can."""
        for slot in slots:
            if request := self._slots.pop(slot, None):
                self._stale.pop(request.request_id, None)
                self._core.abort_requests([request.request_id])
        self.scheduler.forget_all_kv()


def _stacked(rows: Sequence[tuple[Ranking, int]]) -> Ranking:
    first = rows[0][0]
    if len(first.tokens) == len(rows) and all(
        ranking is first and row == index for index, (ranking, row) in enumerate(rows)
    ):
        return first
    fields = zip(*[[field[row] for field in ranking] for ranking, row in rows], strict=True)
    return Ranking(*[np.stack(field) for field in fields])
