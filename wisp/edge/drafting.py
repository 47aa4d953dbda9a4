"""The drafting loop: batched steps of the drafter for all streams that want a token."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from wisp.config import PowerSettings
from wisp.edge.breadth import Breadth
from wisp.edge.drafter.base import Drafter, DraftJob, MortalDrafter
from wisp.edge.generation import EdgeGeneration
from wisp.edge.power import LOOK_S, Power
from wisp.edge.predictor import Predictor
from wisp.edge.revival import Revival
from wisp.edge.tree import Node
from wisp.metrics import EdgeMetrics
from wisp.tasks import begin

log = logging.getLogger(__name__)

# Steps of each size that are timed before the first request, on a sequence of so many tokens.
# Chosen: a median of five, within a second on a device of 10 tokens a second.
_NUM_TIMED, _TIMED_TOKENS = 5, 16
# The generation that is timed; by definition no request's.
_TIMED = -1
# A generation by its key, and a leaf of its drafts behind which to draft.
Chosen = tuple[int, EdgeGeneration, Node]


class DraftLoop:
    """Owns the drafter. It does not wait for verdicts: it drafts while any stream wants a token."""

    def __init__(
        self,
        drafter: Drafter,
        predictor: Predictor,
        max_sessions: int,
        metrics: EdgeMetrics,
        clock: Callable[[], float] = time.monotonic,
        power: Power | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._drafter = drafter
        self.predictor = predictor
        self._max_sessions = max_sessions
        self._metrics = metrics
        self._clock = clock
        self.power = power or Power(PowerSettings())
        self._sleep = sleep
        self.breadth = Breadth()
        self._generations: dict[int, EdgeGeneration] = {}
        self._wake = asyncio.Event()
        # One thread: the event loop stays free, and the drafter is never entered twice.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drafter")
        # Whose steps ended the drafter's process: one of them may do it again.
        self._suspects: set[int] = set()
        self._mortal = drafter if isinstance(drafter, MortalDrafter) else None
        self._revival: Revival | None = None
        metrics.drafter_up.set(1)
        if self._mortal:
            loop = asyncio.get_running_loop()
            self._mortal.on_end = partial(_call_on, loop, self.wake)
            restart = partial(loop.run_in_executor, self._thread, self._mortal.restart)
            self._revival = Revival(self._mortal, restart, metrics, clock, sleep)
        self._given_up = False
        failed = "there are no drafts any more until wisp-edge is started again"
        self._task = begin(self._run, failed, self._give_up)

    def has_room(self, num_prompt: int) -> bool:
        """Whether one more generation can be drafted now, behind so many tokens."""
        if self._given_up or self.power.rests(self._clock()):
            return False
        room = len(self._generations) < self._max_sessions
        return room and num_prompt <= self._drafter.max_model_len

    def add(self, key: int, generation: EdgeGeneration) -> None:
        drafter = self._drafter
        generation.stream.limit(drafter.max_model_len, drafter.vocab_size, self.power.min_chance)
        self._generations[key] = generation
        self._submit(self._drafter.open, key)

    def remove(self, key: int) -> None:
        self._suspects.discard(key)
        if self._generations.pop(key, None):
            self._submit(self._drafter.close, key)

    def measure(self) -> None:
        """Time steps of one branch, and of more: what forks cost on this device."""
        self._submit(self._measure)

    def _measure(self) -> None:
        try:
            self._drafter.open(_TIMED)
            for size in range(1, self._drafter.max_branches + 1):
                for index in range(-1, _NUM_TIMED):  # the first computes what is shared
                    tail = list(range(1, index + 3))
                    jobs = [
                        DraftJob(_TIMED, [0] * _TIMED_TOKENS + [branch] + tail)
                        for branch in range(1, size + 1)
                    ]
                    start_s = self._clock()
                    self._drafter.step(jobs)
                    if index >= 0:
                        self.breadth.observe(size, self._clock() - start_s)
        except Exception:
            log.exception("the drafter cannot be timed: what forks cost is learned as they come")
        finally:
            self._drafter.close(_TIMED)

    def _submit(self, ask: Callable[..., None], *arguments: int) -> None:
        """To the drafter's thread; nobody waits for it, so what fails there is logged."""

        def run() -> None:
            try:
                ask(*arguments)
            except Exception:
                log.exception("the drafter failed")

        self._thread.submit(run)

    def wake(self) -> None:
        """Some stream may want a token now."""
        self._wake.set()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._mortal:
            await asyncio.to_thread(self._mortal.shutdown)  # nobody waits for its start any more
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            self._wake.clear()  # first: whoever wakes from here on is heard
            if self._revival and self._revival.due:
                await self._revive(self._revival)
            start_s = self._clock()
            if pause_s := self.power.pause_s(start_s):
                await self._sleep(pause_s)
            resting = self.power.rests(self._clock())
            chosen = [] if resting else self._alone(self._choose())
            if chosen:
                # A pause counts as the device's own slowness: the server asks for fewer drafts.
                await self._step(chosen, start_s)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S if resting else None):
                        await self._wake.wait()

    def _choose(self) -> list[Chosen]:
        """Behind which leaves to draft: the best of each generation, and others if that pays."""
        first: list[Chosen] = []
        others: list[Chosen] = []
        for key, generation in self._generations.items():
            if generation.drafts:
                with generation.drafting():
                    for rank, leaf in enumerate(generation.stream.wanted()):
                        (others if rank else first).append((key, generation, leaf))
        others.sort(key=lambda entry: -entry[2].cumulative)
        del others[self._drafter.max_branches - 1 :]
        chances = [leaf.cumulative for _, _, leaf in first + others]
        return (first + others)[: self.breadth.best(chances, len(first))]

    def _alone(self, chosen: list[Chosen]) -> list[Chosen]:
        """Of those in whose step the drafter ended one, until it is cleared: with others beside it
        nobody would learn whose text it was."""
        suspect = next((key for key, _, _ in chosen if key in self._suspects), None)
        return chosen if suspect is None else [each for each in chosen if each[0] == suspect]

    async def _revive(self, revival: Revival) -> None:
        await revival.bring_back()
        if revival.given_up:
            self._give_up()

    def _give_up(self) -> None:
        """All go on without drafts, for good: as clients of the server alone."""
        self._given_up = True
        self._metrics.drafter_up.set_function(lambda: 0.0)
        for key, generation in list(self._generations.items()):
            self._forgo(key, generation)

    def _forgo(self, key: int, generation: EdgeGeneration) -> None:
        log.warning("generation %d goes on without drafts", key)
        generation.forgo()
        self.remove(key)

    async def _step(self, chosen: list[Chosen], start_s: float) -> None:
        """`start_s`: since when they have waited for it."""
        jobs = [DraftJob(key, g.stream.sequence(leaf), g.sampling) for key, g, leaf in chosen]
        begun = [g.stream.begin(leaf) for _, g, leaf in chosen]
        begun_s = self._clock()
        loop = asyncio.get_running_loop()
        try:
            proposals = await loop.run_in_executor(self._thread, self._drafter.step, jobs)
            made = list(zip(chosen, begun, proposals, strict=True))
        except Exception as error:
            generations = {key: generation for key, generation, _ in chosen}
            if self._mortal and self._mortal.ended:
                log.debug("a step of the drafter ended it", exc_info=error)
                if len(generations) == 1 and self._suspects.issuperset(generations):
                    self._forgo(*generations.popitem())  # its text does it, and would again
                self._suspects.update(generations)
                return
            log.error("the drafter failed", exc_info=error)
            if len(generations) > 1:  # only the one at fault is to go without drafts
                for key in generations:  # a verdict may have come meanwhile
                    mine = [entry for entry in chosen if entry[0] == key and entry[2].alive]
                    if mine and key in self._generations:
                        await self._step(mine, self._clock())
            else:
                self._forgo(*generations.popitem())
            return
        self._suspects.difference_update(key for key, _, _ in chosen)
        now = self._clock()
        self._metrics.draft_s.observe(now - begun_s)
        self.breadth.observe(len(jobs), now - begun_s)
        self.power.spent(now - begun_s, now)
        step_s = now - start_s
        for (_, generation, _), token, proposal in made:
            with generation.drafting():
                generation.take_proposal(token, proposal, step_s / len(jobs))
        for generation in {id(g): g for _, g, _ in chosen}.values():
            with generation.drafting():
                generation.flush()


def _call_on(loop: asyncio.AbstractEventLoop, called: Callable[[], None]) -> None:
    """From any thread; a loop that is closed needs no telling."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(called)
