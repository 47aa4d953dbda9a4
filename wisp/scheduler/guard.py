"""Whether drafts gain at all, by what steps committed: whatever the estimate of their time says."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul
from statistics import fmean

from wisp.core.acceptance import num_accepted
from wisp.core.batch import Batch
from wisp.core.drafts import Source
from wisp.core.session import Session
from wisp.scheduler.speculation import LEAST, REST_S

# Steps of a trial without own drafts. Chosen: with the first ones edges have only begun to draft
# ahead, and of one alone the chance decides.
_OWN_TRIAL = 8
# Share of the past that each step keeps: of those with drafts, and of those without. Chosen: fifty
# steps are known to some percent; five without must do, as they cost something.
_KEPT_DRAFTED, _KEPT_WITHOUT = 1.0 - LEAST, 0.8
# Remembered steps of each that are compared at least. Chosen: fewer are those of a load that
# begins, whose edges have no drafts yet.
_MIN_DRAFTED, _MIN_WITHOUT = 15.0, 2.0
# Drafts need no trial that bring so many times the most that steps without them could commit.
# Chosen: contexts differ, by which a step takes some percent more or less.
_CLEAR = 1.25
# Seconds for which what was found at one number of sessions counts at others. Chosen: the longest
# time between two trials of a clear case.
_KNOWN_S = REST_S * 2.0**4


@dataclass(slots=True)
class _Rate:
    """Steps, the tokens that they committed for each session, and their seconds, all faded.

    For each session, as their number doubles within a regime while a load begins.
    """

    num: float = 0.0
    tokens: float = 0.0
    time_s: float = 0.0

    def add(self, num_sessions: int, tokens: int, time_s: float, kept: float) -> None:
        self.num = kept * self.num + 1.0
        self.tokens = kept * self.tokens + tokens / num_sessions
        self.time_s = kept * self.time_s + time_s

    @property
    def per_s(self) -> float:
        return self.tokens / self.time_s if self.time_s else 0.0

    @property
    def step_s(self) -> float:
        return self.time_s / self.num if self.num else 0.0


@dataclass(slots=True)
class _Regime:
    without: _Rate = field(default_factory=_Rate)
    drafted: _Rate = field(default_factory=_Rate)
    next_s: float = 0.0  # when it is tried without
    until_s: float = 0.0  # drafts rest
    tried_s: float = -math.inf  # when it was last without
    num_tried: int = 0  # steps of this trial
    num_vain: int = 0  # and those of it that told nothing
    num_rests: int = 0
    num_clear: int = 0  # trials since the last rest that drafts have won


class _Trials:
    """By the power of two of the number of sessions: a trial without some drafts now and then, and
    a rest of them where steps without them commit more a second."""

    def __init__(self, num_steps: int) -> None:
        """`num_steps`: of a trial."""
        self._num_steps = num_steps
        self._regimes: dict[int, _Regime] = {}
        # The shortest that the target took for less than 2^n tokens, and not for less than half of
        # that, by n.
        self._least_s: dict[int, float] = {}
        self._last_s = 0.0  # when the last step was over

    def took(self, num_tokens: int, target_s: float) -> None:
        """The target took so long for so many tokens, none of them of prompts."""
        size = num_tokens.bit_length()
        self._least_s[size] = min(self._least_s.get(size, math.inf), target_s)

    def time_s(self, step_time_s: float, now: float) -> float:
        """Of each step, to be asked when it is over: with what the target waited before it, for
        drafts or for what every step waits for."""
        since_s, self._last_s = now - self._last_s, now
        return max(step_time_s, min(since_s, 2.0 * step_time_s))

    def without(
        self,
        num_sessions: int,
        now: float,
        *,
        has_prompts: bool,
        others: Callable[[float], float] = lambda step_s: 0.0,
    ) -> bool:
        """Whether the next step is to be; a trial waits for one that has no prompts, and is spared
        where it could only tell what is clear. `others`: how many other drafts a step so long would
        accept for each session, at most."""
        regime = self._regimes.get(num_sessions.bit_length())
        if regime is None:
            return False
        if now < regime.until_s:
            return True
        if has_prompts or not 0.0 < regime.next_s <= now:
            return False
        if regime.drafted.num < _MIN_DRAFTED or (
            regime.drafted.per_s <= _CLEAR * self._most_without(num_sessions, now, others)
        ):
            return True
        regime.next_s = now + REST_S  # by then it may be clear no more
        return False

    def _most_without(
        self, num_sessions: int, now: float, others: Callable[[float], float]
    ) -> float:
        """Tokens a second that each of so many sessions could have without such drafts, at most.

        A step takes no less than one of fewer tokens; the shorter it is, the more are committed in
        a second, if fewer in a step. So what was tried with more sessions has no more tokens in a
        step than with fewer, and what was tried with fewer no less a second than with more.
        """
        size = num_sessions.bit_length()
        least_s = max((time for of, time in self._least_s.items() if of < size), default=0.0)
        if not least_s:
            return math.inf
        tried = [
            each.without.per_s * max(1.0, each.without.step_s / least_s)
            for of, each in self._regimes.items()
            if of != size and each.without.num >= _MIN_WITHOUT and now - each.tried_s < _KNOWN_S
        ]
        return min([(1.0 + others(least_s)) / least_s, *tried])

    def drafted(self, num_sessions: int, tokens: int, time_s: float, now: float) -> None:
        """A step with such drafts committed so many tokens."""
        regime = self._regimes.setdefault(num_sessions.bit_length(), _Regime())
        if not regime.next_s:
            regime.next_s = now + REST_S
        regime.drafted.add(num_sessions, tokens, time_s, _KEPT_DRAFTED)

    def plain(self, num_sessions: int, tokens: int, time_s: float, now: float) -> None:
        """A step without such drafts did."""
        regime = self._regimes.setdefault(num_sessions.bit_length(), _Regime())
        regime.without.add(num_sessions, tokens, time_s, _KEPT_WITHOUT)
        regime.tried_s = now
        regime.num_tried += 1
        if regime.num_tried < self._num_steps:
            return
        regime.num_tried = 0
        self._judge(regime, now)
        # So small a part of the time is not missed, and the clearer the case the smaller. What has
        # rested has to show sooner that it gains.
        is_proven = regime.num_clear or not regime.num_rests
        trial_s = time_s * (self._num_steps if is_proven else 1)
        regime.next_s = now + trial_s / LEAST * 2.0 ** min(regime.num_clear, 4)

    def in_vain(self, num_sessions: int, time_s: float, now: float) -> None:
        """A step without such drafts told nothing: as many as a trial has, and it is put off."""
        regime = self._regimes.get(num_sessions.bit_length())
        if regime is None or now < regime.until_s or not 0.0 < regime.next_s <= now:
            return
        regime.num_vain += 1
        if regime.num_vain >= self._num_steps:
            regime.num_vain = 0
            regime.next_s = now + self._num_steps * time_s / LEAST

    def _judge(self, regime: _Regime, now: float) -> None:
        if now < regime.until_s:
            return
        if regime.drafted.num < _MIN_DRAFTED or regime.without.num < _MIN_WITHOUT:
            return
        if regime.without.per_s < regime.drafted.per_s:
            regime.num_clear += 1
        elif regime.without.per_s * (1.0 - LEAST) > regime.drafted.per_s:
            regime.until_s = now + REST_S * 2.0 ** min(regime.num_rests, 4)
            regime.num_rests += 1
            regime.num_clear, regime.drafted = 0, _Rate()  # it is to be shown anew


class _Guard(ABC):
    """Over some kind of drafts, by trials of so many steps without them."""

    def __init__(self, num_steps: int) -> None:
        self._trials = _Trials(num_steps)

    def observe(
        self,
        batch: Batch,
        num_committed: Sequence[int],
        step_time_s: float,
        now: float,
        drafting_s: float = 0.0,
    ) -> None:
        """As `Policy.observe`."""
        has_prompts = any(seat.num_context > 1 for seat in batch.seats)
        if not has_prompts:
            self._trials.took(batch.num_tokens, step_time_s - drafting_s)
        time_s = self._trials.time_s(step_time_s, now)
        if batch.num_sessions:
            self._count(batch, sum(num_committed), time_s, now, has_prompts=has_prompts)

    @abstractmethod
    def _count(
        self, batch: Batch, tokens: int, time_s: float, now: float, *, has_prompts: bool
    ) -> None:
        """A step that committed so many tokens, with these drafts or without."""


class Guard(_Guard):
    """All drafts, against steps that hold everybody and none. Steps with prompts tell nothing."""

    def __init__(self) -> None:
        super().__init__(1)

    def plain(self, num_sessions: int, now: float, *, has_prompts: bool = False) -> bool:
        """Whether the next step is to hold everybody, and no drafts."""
        return self._trials.without(num_sessions, now, has_prompts=has_prompts)

    def _count(
        self, batch: Batch, tokens: int, time_s: float, now: float, *, has_prompts: bool
    ) -> None:
        if not has_prompts:
            count = self._trials.plain if batch.plain else self._trials.drafted
            count(batch.num_sessions, tokens, time_s, now)


class OwnGuard(_Guard):
    """Own drafts, against steps that have those of edges alone."""

    def __init__(self) -> None:
        super().__init__(_OWN_TRIAL)

    def rests(
        self, sessions: Collection[Session], now: float, *, has_prompts: bool = False
    ) -> bool:
        """Whether none are to be made behind the next step of these."""
        return self._trials.without(
            len(sessions),
            now,
            has_prompts=has_prompts,
            others=lambda step_s: fmean(_most_others(each, step_s) for each in sessions),
        )

    def _count(
        self, batch: Batch, tokens: int, time_s: float, now: float, *, has_prompts: bool
    ) -> None:
        asks = any(seat.num_own for seat in batch.seats)
        if batch.plain or (asks and has_prompts):
            return
        verifies = any(seat.draft and seat.source is Source.OWN for seat in batch.seats)
        if asks:
            self._trials.drafted(batch.num_sessions, tokens, time_s, now)
        elif verifies or has_prompts:  # those that were made behind the one before
            self._trials.in_vain(batch.num_sessions, time_s, now)
        else:
            self._trials.plain(batch.num_sessions, tokens, time_s, now)


def _most_others(session: Session, step_s: float) -> float:
    """Drafts other than the server's own that a step so long accepts, at most: those of an edge
    that drafts all the while, and the n-grams' that are here."""
    found = 0.0
    if session.drafts.source is Source.NGRAM:
        found += sum(accumulate(session.drafts.acceptance, mul))
    if session.has_edge and session.directive.window > 0:
        edge = session.edge_stats
        num_drafts = step_s / edge.draft_time_s if edge.draft_time_s else math.inf
        found += float(num_accepted(edge.acceptance.rate, num_drafts))
    return found
