"""Which of a drafter's cached sequences drafts which job: bookkeeping without a model.

A generation's drafts are a tree, so several of its jobs can be in one step. Each needs a sequence
of the cache to itself, which holds a prefix of the job's tokens; what it lacks is copied from
another sequence of the same generation, or computed. For this a cache must be able to

- copy the keys and values of positions [start, end) of one sequence to another (llama.cpp:
  `llama_memory_seq_cp`),
- forget those from a position on (llama.cpp: `llama_memory_seq_rm`); a cache that overwrites what
  lies behind needs no call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wisp.core.prefix import common_prefix
from wisp.edge.drafter.base import DraftJob
from wisp.edge.drafter.parked import Parked
from wisp.errors import Overloaded

log = logging.getLogger(__name__)

Copy = Callable[[int, int, int, int], None]  # source, target, start, end: [start, end) of both


@dataclass(slots=True, eq=False)
class Cached:
    """One sequence of the cache."""

    index: int
    held: list[int] = field(default_factory=list)  # tokens whose keys and values it has
    used: int = 0  # the last step that it was in


class Sequences:
    """Each generation has one sequence, and borrows others for its forks while they are free."""

    def __init__(
        self, num_generations: int, num_spare: int, copy: Copy, parked: Parked | None = None
    ) -> None:
        """`parked`: what is kept of generations that have ended; None: nothing is."""
        self.num = num_generations + num_spare
        self._num_generations = num_generations
        self._copy = copy
        self._parked = parked
        self._free = [Cached(index) for index in range(self.num)][::-1]
        self._of: dict[int, list[Cached]] = {}  # by generation
        self._num_steps = 0

    def open(self, key: int) -> None:
        """Raises Overloaded if there is no room for one more generation."""
        if key in self._of:
            raise ValueError(f"sequence {key} is open already")
        if len(self._of) >= self._num_generations:
            raise Overloaded(f"all {self._num_generations} sequences of the drafter are taken")
        self._of[key] = [self._borrow()]

    def indexes(self, key: int) -> list[int]:
        """The sequences of the cache that a generation has."""
        return [cached.index for cached in self._of.get(key, ())]

    def close(self, key: int) -> None:
        own = self._of.pop(key, [])
        try:
            if self._parked and own:
                longest = max(own, key=lambda cached: len(cached.held))
                self._parked.park(longest.index, longest.held)
        except Exception:  # as where memory is short: nobody waits for an answer to this
            log.exception("what was drafted behind cannot be kept for a next turn")
        finally:
            for cached in own:
                cached.held.clear()
                self._free.append(cached)

    def forget(self) -> None:
        """The cache is lost: all that is open is computed anew when it is drafted for."""
        for own in self._of.values():
            for cached in own:
                cached.held.clear()

    def assign(self, jobs: Sequence[DraftJob]) -> list[Cached]:
        """A sequence for each job; what of the job's tokens is cached anywhere it holds.

        Its last token is always left to be computed: its logits are what is wanted.
        """
        self._num_steps += 1
        return [self._assign(job) for job in jobs]

    def _assign(self, job: DraftJob) -> Cached:
        own = self._of[job.key]
        idle = [cached for cached in own if cached.used != self._num_steps]
        if not idle:
            idle = [self._borrow()]
            own.append(idle[0])
        shared = {
            cached.index: common_prefix(cached.held, job.tokens, len(job.tokens) - 1)
            for cached in own
        }
        # Of equally long prefixes whichever was not used for longest: its branch is given up.
        chosen = max(idle, key=lambda cached: (shared[cached.index], -cached.used))
        chosen.used = self._num_steps
        num_held = shared[chosen.index]
        del chosen.held[num_held:]
        source = max(own, key=lambda cached: shared[cached.index])
        if (end := shared[source.index]) > num_held:
            self._copy(source.index, chosen.index, num_held, end)
            chosen.held += job.tokens[num_held:end]
        if self._parked:
            known = job.tokens[:-1]
            num_found = self._parked.load(chosen.index, known, len(chosen.held))
            chosen.held[:] = known[:num_found]
        return chosen

    def _borrow(self) -> Cached:
        """A free one, or a spare one of whoever did not use it for longest."""
        if not self._free:
            spare = [
                (cached.used, key, cached)
                for key, own in self._of.items()
                for cached in own
                if len(own) > 1 and cached.used != self._num_steps
            ]
            _, key, cached = min(spare, key=lambda entry: entry[:2])
            self._of[key].remove(cached)
            cached.held.clear()
            return cached
        return self._free.pop()
