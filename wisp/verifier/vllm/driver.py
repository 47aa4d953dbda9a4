"""The verifier on vLLM: sessions are resident requests, a step is one step of EngineCore."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vllm.platforms import current_platform
from vllm.v1.core.sched.output import SchedulerOutput

from wisp.core.batch import Batch, Seat
from wisp.core.kv_memory import KvMemory
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.errors import BadRequest, ConfigError, InternalError, Overloaded
from wisp.verifier.base import Collect, Facts, Outcome, Verifier
from wisp.verifier.torch import eos_token_ids
from wisp.verifier.vllm.adapters import lora_requests
from wisp.verifier.vllm.launched import Collected
from wisp.verifier.vllm.options import HEADS, engine_args, has_tokenizer
from wisp.verifier.vllm.params import is_slow
from wisp.verifier.vllm.requests import Requests
from wisp.verifier.vllm.scheduler import SeatScheduler
from wisp.verifier.vllm.start import device_name, engine_name, start
from wisp.verifier.vllm.structures import wait_for_any

log = logging.getLogger(__name__)


class VllmVerifier(Verifier):
    """Implements `wisp.verifier.base.Verifier`; `options` are engine arguments of vLLM.

    A seat's number of tokens is the most that a step computes for it. Less is computed where the
    prefix cache holds the rest, and a session that lost its KV to a more urgent one is recomputed
    first: `Outcome.num_computed` says how far each session is.

    `overlap`: steps may be launched while another runs, where no choice needs the host's help.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        max_sessions: int,
        max_model_len: int | None = None,
        max_window: int,
        max_step_tokens: int,
        model: str | None = None,
        overlap: bool = False,
        lora_modules: Mapping[str, Path] | None = None,
        options: Mapping[str, Any] | None = None,
        host_kv_bytes: int = 0,
        drafter_method: str | None = None,
        drafter: Path | None = None,
    ) -> None:
        directory = Path(directory)
        model = model or directory.resolve().name
        if model in (lora_modules or {}):
            raise ConfigError(f"the adapter '{model}' is named as the target: choose another name")
        self._adapters = lora_requests(lora_modules or {})
        self._core = start(
            engine_args(
                directory,
                options or {},
                max_sessions=max_sessions,
                max_model_len=max_model_len,
                max_window=max_window,
                max_step_tokens=max_step_tokens,
                lora_modules=lora_modules,
                drafter_method=drafter_method,
                drafter=drafter,
            ),
            self._adapters.values(),
        )
        self._core.collective_rpc("wisp_install")
        scheduler = self._core.scheduler
        assert isinstance(scheduler, SeatScheduler)
        self.scheduler = scheduler
        config = self._core.vllm_config.model_config
        self._has_stages = self._core.vllm_config.parallel_config.pipeline_parallel_size > 1
        # Positions of several dimensions are not put right where a draft in flight is rejected.
        self._overlap = overlap and not (config.is_hybrid or self._has_stages or config.uses_mrope)
        self.facts = Facts(
            model=model,
            vocab_size=config.get_vocab_size(),
            max_model_len=config.max_model_len,
            max_sessions=max_sessions,
            eos_token_ids=eos_token_ids(directory, config.hf_config.eos_token_id),
            device=device_name(self._core.vllm_config.parallel_config.world_size),
            on_gpu=not current_platform.is_cpu(),
            engine=engine_name(config) + (" lora" if self._adapters else ""),
            adapters=tuple(self._adapters),
            structures=has_tokenizer(directory),
        )
        self.requests = Requests(self._core, scheduler, self.facts, self._adapters)
        self._generation = 0
        self._num_launched = 0  # steps
        self._landed = 0  # the last step that has
        # The last step that may, once it lands, have written to blocks that nobody holds any more.
        self._astray = 0
        if drafter_method:
            self._drafts_own(is_head=drafter_method in HEADS)
        if host_kv_bytes:
            self._parks(host_kv_bytes)

    def _drafts_own(self, *, is_head: bool) -> None:
        """Raises ConfigError if the drafter's KV cannot lie beside the target's."""
        config = self._core.vllm_config
        if not self.scheduler.can_park() or config.model_config.uses_mrope:
            raise ConfigError(
                "'engine.drafter' needs a target and a drafter of plain full attention, of one "
                "number format, for text"
            )
        # Longer passes have no graph: with one text of many a step took four times as long.
        most = config.compilation_config.max_cudagraph_capture_size
        self.scheduler.drafts_own(
            min(config.scheduler_config.max_num_batched_tokens, most or sys.maxsize),
            config.speculative_config.draft_model_config.max_model_len,
            is_head=is_head,
        )

    def _parks(self, host_kv_bytes: int) -> None:
        """Of all workers together. Raises ConfigError if so much cannot be had."""
        if not self.scheduler.can_park() or self._has_stages:
            log.warning("KV is not parked: that needs plain full attention and one stage")
            return
        num_workers = self._core.vllm_config.parallel_config.world_size
        sizes = self._core.collective_rpc("wisp_block_bytes")
        num_slots = host_kv_bytes // num_workers // max(sizes)
        try:
            self._core.collective_rpc("wisp_parks", args=(num_slots,))
        except Exception as error:
            log.exception("there is no host memory for KV")
            raise ConfigError(
                f"{host_kv_bytes / 2**30:g} GiB of host memory for KV cannot be had: {error}: "
                "set 'engine.host_kv_gib' lower"
            ) from error
        self.scheduler.parks(num_slots)

    def open(self, session: Session) -> int:
        if session.id in self.requests.names:
            raise ValueError(f"session {session.id} is open already")
        if len(self.requests.names) >= self.facts.max_sessions:
            raise Overloaded(f"all {self.facts.max_sessions} sessions of the target are taken")
        longest = min(session.num_prompt + session.sampling.max_tokens, self.facts.max_model_len)
        wanted, there_are = self.scheduler.blocks_for(longest), self.scheduler.num_blocks
        if wanted > there_are:
            raise Overloaded(
                f"prompt and answer may need {wanted} KV blocks but there are {there_are}: "
                "ask for fewer tokens"
            )
        return self.scheduler.finds(self.requests.open(session))

    def step(self, batch: Batch) -> list[Outcome]:
        return self.launch(batch)()

    def overlaps(self, sampling: Sampling) -> bool:
        return self._overlap and not is_slow(sampling) and not sampling.structure

    @property
    def kv_used(self) -> float:
        return 1.0 - self.scheduler.num_free_blocks / self.scheduler.num_blocks

    def memory(self) -> KvMemory:
        parking, block = self.scheduler.parking, self.scheduler.block_tokens
        num_parkable = parking.num_free if parking else 0
        return KvMemory(
            block, self.scheduler.num_free_blocks, num_parkable, host_block_tokens=block
        )

    def evicted(self) -> list[Session]:
        return self.requests.sessions(self.scheduler.take_evicted())

    def park(self, sessions: Sequence[Session]) -> list[int]:
        kept = [self.scheduler.park(self.requests.of(session)) for session in sessions]
        self._copy()
        return kept

    def load(self, sessions: Sequence[Session]) -> list[int]:
        found = [self.scheduler.load(self.requests.of(session)) for session in sessions]
        self._copy()
        return found

    def _copy(self) -> None:
        if self.scheduler.parking is None:
            return
        out, back = self.scheduler.parking.take_copies()
        if out or back:
            self._core.collective_rpc("wisp_move", args=(out, back, self._astray > self._landed))

    def refused(self) -> list[tuple[Session, BadRequest | Overloaded]]:
        refused = self.requests.grammars.refused
        return list(zip(self.requests.sessions(refused), refused.values(), strict=True))

    def launch(self, batch: Batch) -> Collect:
        if not batch:
            return list
        seats = sorted(batch.seats, key=lambda seat: seat.session.due_s)
        of, is_ready, place = self.requests.of, self.requests.grammars.ready, self.requests.place
        ready = [seat for seat in seats if is_ready(of(seat.session))]
        if not ready:
            wait_for_any([of(seat.session) for seat in seats])
        self.scheduler.plan([place(seat) for seat in self._together(ready)])
        try:
            scheduled = self._launch()
            choosing = self.scheduler.launched(scheduled)
        except Exception:
            self._recover(batch)
            raise
        self._num_launched += 1
        about = self._num_launched, self._generation
        return partial(self._collect, batch, scheduled, choosing, *about)

    def _together(self, seats: list[Seat]) -> list[Seat]:
        """Those with the first `max_loras` adapters: vLLM computes no more of them in a step."""
        config = self._core.vllm_config.lora_config
        if config is None or config.max_loras >= len(self._adapters):
            return seats
        adapters = dict.fromkeys(s.session.adapter for s in seats if s.session.adapter)
        chosen = {None, *list(adapters)[: config.max_loras]}
        return [seat for seat in seats if seat.session.adapter in chosen]

    def _launch(self) -> SchedulerOutput:
        """As `EngineCore.step`, but nothing is waited for."""
        scheduled = self.scheduler.schedule()
        executor = self._core.model_executor
        begun_s = time.monotonic()
        future = executor.execute_model(scheduled, non_block=True)
        if self.facts.on_gpu:  # else the target is through with it
            begun_s = time.monotonic()
        grammar = self.scheduler.get_grammar_bitmask(scheduled)
        if future.result() is None:  # else there was nothing to compute
            executor.sample_tokens(grammar)
        self.had_s = time.monotonic() - begun_s
        return scheduled

    def _collect(
        self,
        batch: Batch,
        scheduled: SchedulerOutput,
        choosing: set[str],
        number: int,
        generation: int,
    ) -> list[Outcome]:
        if generation != self._generation:
            raise InternalError("another step failed while this one ran")
        try:
            found = Collected({}, {})
            if scheduled.total_num_scheduled_tokens:
                found = next(filter(None, self._core.collective_rpc("wisp_collect")))
                if self._has_stages:
                    self._core.collective_rpc("wisp_tell", args=(found.tokens,))
            self.arrived_s, self.took_s = found.arrived_s, found.took_s
            self.drafting_s = found.drafting_s
            self.scheduler.landed(scheduled, choosing, found.tokens)
            self._landed = number
        except Exception:
            self._recover(batch)
            raise
        outcome = self.requests.outcome
        return [outcome(seat.session, found) for seat in batch.seats]

    def close(self, session: Session) -> None:
        request_id = self.requests.close(session)
        if request_id is None:
            return
        if request := self.scheduler.requests.get(request_id):
            if self.scheduler.is_in_flight(request_id):
                self._astray = self._num_launched
            self.scheduler.ends(request)
            self._copy()
            self._core.abort_requests([request_id])

    def shutdown(self) -> None:
        for session in self.requests.sessions(self.requests.names.values()):
            self.close(session)
        self.requests.stop()
        self._core.shutdown()

    def _recover(self, batch: Batch) -> None:
        """Start the sessions of a failed step anew, and recompute all others when next seated."""
        self._generation += 1  # nothing of a step that still runs is collected
        self._astray = self._num_launched
        self._core.collective_rpc("wisp_forget")
        for seat in batch.seats:
            if request_id := self.requests.close(seat.session):
                self._core.abort_requests([request_id])
                self.requests.open(seat.session)
        self.scheduler.forget_all_kv()
