"""A startup profile: synthetic sessions take a grid of steps, and the clock says what each cost."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from itertools import cycle

from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.estimator.fit import Observation
from wisp.estimator.shape import shape_of
from wisp.verifier.base import Verifier

log = logging.getLogger(__name__)

# How long the profile may take at the first start with a target. Chosen: on a GPU as long as the
# engine itself takes to start.
GPU_BUDGET_S = 60.0
# The same on a CPU. Chosen: a start on a laptop is not to wait for it.
CPU_BUDGET_S = 2.0
# Sessions in a step of the grid, beside the most there are. Chosen: powers of two or four, since
# times change by ratios and the fit is smooth between.
_SIZES = (1, 4, 16, 32, 64, 128, 256, 512)
# Draft tokens of each session in a step of the grid. Chosen: as the sizes.
_DRAFTS = (0, 1, 2, 4, 8, 16)
# Tokens that stand before those of a step. Chosen: powers of four, up to a long chat.
_CONTEXTS = (64, 512, 2048, 8192)
# How often the grid is gone through, if there is time. Chosen: a median of six tells outliers.
_NUM_SWEEPS = 6
# Tokens that a session of the profile may grow by. Chosen: six sweeps with the longest drafts.
_ROOM = 160
# The share of a context's time that goes to opening and prefilling. Chosen: prompts and decoding
# are worth the same to the fit.
_PREFILL_SHARE = 0.5
# By definition a promise that nobody waits for: no policy sees these sessions.
NOBODYS = Slo(tokens_per_s=1.0, first_token_s=60.0)

Progress = Callable[[float, int], None]  # the share of the budget spent, steps measured so far


def profile(
    verifier: Verifier,
    *,
    max_step_tokens: int,
    max_window: int,
    budget_s: float = GPU_BUDGET_S,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
    seed: int = 0,
) -> list[Observation]:
    """Steps and their times, for `StepTimeEstimator.fit`.

    Each context length that can be prefilled in time gets an equal share of it: sessions are
    opened and prefilled in chunks of all sizes for half of the share, then they decode in the grid
    of batch sizes and draft lengths. The verifier must be idle, and is so again afterwards.
    """
    run = _Run(verifier, max_step_tokens, budget_s, clock, progress or _silent, seed)
    window = min(max_window, max_step_tokens - 1)
    contexts = run.affordable(_contexts(verifier.facts.max_model_len, window))
    for index, context in enumerate(contexts):
        share_s = run.left_s / (len(contexts) - index)
        run.measure_context(context, window, clock() + share_s)
    run.progress(1.0, len(run.observations))
    return run.observations


class _Run:
    def __init__(
        self,
        verifier: Verifier,
        max_step_tokens: int,
        budget_s: float,
        clock: Callable[[], float],
        progress: Progress,
        seed: int,
    ) -> None:
        self.observations: list[Observation] = []
        self.progress = progress
        self._verifier = verifier
        self._max_step_tokens = max_step_tokens
        self._budget_s = budget_s
        self._clock = clock
        self._end_s = clock() + budget_s
        self._chance = random.Random(seed)
        self._next_id = -1  # clients' sessions count upwards
        self._warm: set[int] = set()  # tokens of the steps that were computed once

    @property
    def left_s(self) -> float:
        return max(0.0, self._end_s - self._clock())

    def affordable(self, contexts: list[int]) -> list[int]:
        """The first, and those of which a session is prefilled in half of an equal share."""
        if len(contexts) < 2:
            return contexts
        tokens = min(contexts[-1], self._max_step_tokens)
        probe = self._open(1, tokens)
        start_s = self._clock()
        try:
            self._step(_prefill(probe, tokens))
        finally:
            self._drop(probe, list(probe))
        token_s = (self._clock() - start_s) / tokens
        share_s = _PREFILL_SHARE * self._budget_s / len(contexts)
        return [c for c in contexts if c == contexts[0] or c * token_s < share_s]

    def measure_context(self, context: int, window: int, end_s: float) -> None:
        fleet: list[Session] = []
        try:
            self._fill(fleet, context, end_s - _PREFILL_SHARE * (end_s - self._clock()))
            for _ in range(_NUM_SWEEPS if fleet else 0):
                self._sweep(fleet, window, end_s)
        finally:
            for session in fleet:
                self._verifier.close(session)

    def _fill(self, fleet: list[Session], context: int, end_s: float) -> None:
        """Open and prefill sessions up to the most there may be, or for as long as there is."""
        most = min(self._verifier.facts.max_sessions, self._max_step_tokens, _SIZES[-1])
        chunks = cycle(_chunks(self._max_step_tokens))
        while len(fleet) < most and (not fleet or self._clock() < end_s):
            chunk = next(chunks)
            fresh = self._open(min(most - len(fleet), max(1, chunk // context)), context)
            fleet += fresh
            while missing := [session for session in fresh if session.num_missing > 1]:
                late = self._clock() >= end_s
                if late or not self._step(_prefill(missing, chunk)):
                    break
                chunk = next(chunks)
            if missing or not fresh:
                self._drop(fleet, missing)
                return

    def _sweep(self, fleet: list[Session], window: int, end_s: float) -> None:
        """The grid once, in random order: whenever time is up, a fair sample of it was seen."""
        sizes = {size for size in (*_SIZES, len(fleet)) if size <= len(fleet)}
        counts = {min(count, window) for count in _DRAFTS}
        points = [(size, drafts) for size in sorted(sizes) for drafts in sorted(counts)]
        self._chance.shuffle(points)
        for size, drafts in points:
            if size * (1 + drafts) > self._max_step_tokens:
                continue
            for _ in range(1 if self._is_warm(size * (1 + drafts)) else 2):
                roomy = _roomiest(fleet, window)[:size]
                if len(roomy) < size or self._clock() >= end_s:
                    break
                self._step(Batch([Seat(session, 1, self._tokens(drafts)) for session in roomy]))

    def _step(self, batch: Batch) -> bool:
        """False if the target could not hold all of the batch; then its time tells nothing."""
        shape = shape_of(batch)
        start_s = self._clock()
        outcomes = self._verifier.step(batch)
        end_s = self._clock()
        complete = True
        for seat, outcome in zip(batch.seats, outcomes, strict=True):
            complete &= bool(outcome.tokens) or not seat.chooses
            seat.session.computed(outcome.computed_after(seat))
            if outcome.tokens:
                seat.session.commit(outcome.tokens, end_s)
        if complete and batch and self._is_warm(shape.num_tokens):
            self.observations.append((shape, end_s - start_s))
        self._warm.add(shape.num_tokens)
        spent = 1.0 - self.left_s / self._budget_s
        self.progress(spent, len(self.observations))
        return complete

    def _is_warm(self, num_tokens: int) -> bool:
        """On a GPU the first step of a size may compile something."""
        return num_tokens in self._warm or not self._verifier.facts.on_gpu

    def _open(self, number: int, context: int) -> list[Session]:
        sessions: list[Session] = []
        for _ in range(number):
            sampling = Sampling(max_tokens=_ROOM, seed=self._chance.getrandbits(64))
            session = Session(self._next_id, self._tokens(context), sampling, NOBODYS)
            self._next_id -= 1
            try:
                self._verifier.open(session)
            except Exception as error:  # it need not hold as many: the profile takes what it gets
                log.info("the profile ends at %d sessions of %d tokens: %s", number, context, error)
                break
            sessions.append(session)
        return sessions

    def _drop(self, fleet: list[Session], sessions: list[Session]) -> None:
        for session in sessions:
            self._verifier.close(session)
            fleet.remove(session)

    def _tokens(self, number: int) -> list[int]:
        return self._chance.choices(range(self._verifier.facts.vocab_size), k=number)


def _roomiest(fleet: list[Session], window: int) -> list[Session]:
    """Those that can take a step with any draft; who grew least comes first."""
    able = [s for s in fleet if s.decoding and s.num_remaining > window + 1]
    return sorted(able, key=lambda session: -session.num_remaining)


def _silent(share: float, num_steps: int) -> None:
    pass


def _prefill(sessions: list[Session], chunk: int) -> Batch:
    """At most `chunk` tokens of the sessions' prompts, the first session first."""
    seats = []
    for session in sessions:
        count = min(chunk, session.num_missing)
        if count:
            seats.append(Seat(session, count))
        chunk -= count
    return Batch(seats)


def _contexts(max_model_len: int, window: int) -> list[int]:
    longest = max_model_len - _ROOM - window
    if longest < 1:
        return []
    return sorted({min(context, longest) for context in _CONTEXTS})


def _chunks(max_step_tokens: int) -> list[int]:
    sizes = (max_step_tokens, 128, max_step_tokens // 2, 256, max_step_tokens // 4, 512)
    return sorted({max(1, min(size, max_step_tokens)) for size in sizes}, reverse=True)
