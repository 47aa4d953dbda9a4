"""The drafting loop: batched steps of the drafter for all streams that want a token."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from wisp.core.drafts import REST
from wisp.edge.drafter.base import Drafter, DraftJob
from wisp.edge.generation import EdgeGeneration
from wisp.edge.predictor import Predictor
from wisp.metrics import EdgeMetrics

log = logging.getLogger(__name__)


class DraftLoop:
    """Owns the drafter. It does not wait for verdicts: it drafts while any stream wants a token."""

    def __init__(
        self,
        drafter: Drafter,
        predictor: Predictor,
        max_sessions: int,
        metrics: EdgeMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drafter = drafter
        self.predictor = predictor
        self._max_sessions = max_sessions
        self._metrics = metrics
        self._clock = clock
        self._generations: dict[int, EdgeGeneration] = {}
        self._wake = asyncio.Event()
        # One thread: the event loop stays free, and the drafter is never entered twice.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drafter")
        self._task = asyncio.create_task(self._run())

    def has_room(self, num_prompt: int) -> bool:
        """Whether one more generation can be drafted, behind so many tokens."""
        room = len(self._generations) < self._max_sessions
        return room and num_prompt <= self._drafter.max_model_len

    def add(self, key: int, generation: EdgeGeneration) -> None:
        generation.stream.limit(self._drafter.max_model_len, self._drafter.vocab_size)
        self._generations[key] = generation
        self._thread.submit(self._drafter.open, key)

    def remove(self, key: int) -> None:
        if self._generations.pop(key, None):
            self._thread.submit(self._drafter.close, key)

    def wake(self) -> None:
        """Some stream may want a token now."""
        self._wake.set()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            wanting = {k: g for k, g in self._generations.items() if g.stream.wants_token}
            if wanting:
                await self._step(wanting)
            else:
                await self._wake.wait()

    async def _step(self, wanting: dict[int, EdgeGeneration]) -> None:
        jobs = [DraftJob(key, g.stream.tokens, g.sampling) for key, g in wanting.items()]
        begun = [g.stream.begin_token() for g in wanting.values()]
        start_s = self._clock()
        loop = asyncio.get_running_loop()
        try:
            proposals = await loop.run_in_executor(self._thread, self._drafter.step, jobs)
        except Exception:
            log.exception("the drafter failed")
            if len(wanting) > 1:  # only the one at fault is to go without drafts
                for key, generation in wanting.items():
                    await self._step({key: generation})
            else:
                ((key, generation),) = wanting.items()
                log.warning("generation %d goes on without drafts", key)
                generation.stream.directive = REST
                self.remove(key)
            return
        step_s = self._clock() - start_s
        self._metrics.draft_s.observe(step_s)
        for generation, token, proposal in zip(wanting.values(), begun, proposals, strict=True):
            generation.finish_token(token, proposal, step_s / len(jobs))
