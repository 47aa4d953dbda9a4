"""Whether drafts gain at all, by what steps committed: whatever the estimate of their time says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wisp.core.batch import Batch
from wisp.scheduler.speculation import LEAST, REST_S


@dataclass(slots=True)
class _Rate:
    """Committed tokens and seconds, faded."""

    tokens: float = 0.0
    time_s: float = 0.0

    def add(self, tokens: int, time_s: float, kept: float) -> None:
        self.tokens = kept * self.tokens + tokens
        self.time_s = kept * self.time_s + time_s

    @property
    def per_s(self) -> float:
        return self.tokens / self.time_s if self.time_s else 0.0


@dataclass(slots=True)
class _Regime:
    plain: _Rate = field(default_factory=_Rate)
    drafted: _Rate = field(default_factory=_Rate)
    next_s: float = 0.0  # when a step is tried without drafts
    until_s: float = 0.0  # drafts rest
    num_rests: int = 0
    num_clear: int = 0  # trials since the last rest that drafts have won


class Guard:
    """By the power of two of the number of sessions: a trial step without drafts now and then, and
    a rest of all drafts where plain steps commit more a second. Steps with prompts tell nothing.
    """

    def __init__(self) -> None:
        self._regimes: dict[int, _Regime] = {}
        self._last_s = 0.0  # when the last step was over

    def plain(self, num_sessions: int, now: float) -> bool:
        """Whether the next step is to hold everybody, and no drafts."""
        regime = self._regimes.get(num_sessions.bit_length())
        return regime is not None and (now < regime.until_s or now >= regime.next_s > 0.0)

    def observe(
        self, batch: Batch, num_committed: Sequence[int], step_time_s: float, now: float
    ) -> None:
        since_s, self._last_s = now - self._last_s, now
        if not batch.num_sessions or any(seat.num_context > 1 for seat in batch.seats):
            return
        regime = self._regimes.setdefault(batch.num_sessions.bit_length(), _Regime())
        if batch.plain:
            regime.plain.add(sum(num_committed), step_time_s, 0.8)
            self._judge(regime, now)
            # So small a part of the time is not missed, and the clearer the case the smaller.
            regime.next_s = now + step_time_s / LEAST * 2.0 ** min(regime.num_clear, 4)
            return
        if not regime.next_s:
            regime.next_s = now + REST_S
        idle_s = min(since_s, 2.0 * step_time_s)  # what was waited for drafts
        regime.drafted.add(sum(num_committed), max(step_time_s, idle_s), 1.0 - LEAST)

    def _judge(self, regime: _Regime, now: float) -> None:
        if now < regime.until_s or regime.drafted.time_s < regime.plain.time_s:
            return
        if regime.plain.per_s < regime.drafted.per_s:
            regime.num_clear += 1
        elif regime.plain.per_s * (1.0 - LEAST) > regime.drafted.per_s:
            regime.until_s = now + REST_S * 2.0 ** min(regime.num_rests, 4)
            regime.num_rests += 1
            regime.num_clear, regime.drafted = 0, _Rate()  # it is to be shown anew
