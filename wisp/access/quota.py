"""How much a key may ask for, and what it has had. Pure: times are arguments, in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct

from wisp.core.slo import Slo
from wisp.errors import Forbidden, Overloaded

_MINUTE_S = 60.0  # in which a rate of a minute fills its bucket again, by definition
# What a key that has all its sessions open is told to wait. Chosen: most sessions end within
# seconds.
_SESSION_WAIT_S = 1.0


class Quota(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """None: no limit."""

    max_sessions: int | None = None  # at once
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # of prompts and answers
    slo_classes: list[str] | None = None  # by name; "custom" are a request's own numbers
    max_priority: int | None = None


class Bucket:
    """Holds a minute's worth at most, and fills evenly. It may be overdrawn: that is paid off."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.limit = per_minute
        self._level = float(per_minute)
        self._now = now

    def level(self, now: float) -> float:
        filled = self._level + (now - self._now) * self.limit / _MINUTE_S
        self._level, self._now = min(float(self.limit), filled), max(now, self._now)
        return self._level

    def take(self, amount: float, now: float) -> None:
        self.level(now)
        self._level -= amount

    def wait_s(self, amount: float, now: float) -> float:
        """Until so much is there."""
        missing = min(amount, self.limit) - self.level(now)
        return max(0.0, missing * _MINUTE_S / self.limit)


class Usage:
    """Of one key. Ask `check` before, tell `opened`, `used` and `closed` what came of it."""

    def __init__(self, quota: Quota, clock: Callable[[], float]) -> None:
        self.num_sessions = 0
        self._clock = clock
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self.limit(quota)

    def limit(self, quota: Quota) -> None:
        """By another quota from now on; what was used of the old one is forgotten if it changed."""
        self.quota = quota
        now = self._clock()
        self._requests = _bucket(self._requests, quota.requests_per_minute, now)
        self._tokens = _bucket(self._tokens, quota.tokens_per_minute, now)

    def check(self, slo: Slo | None = None, *, resumes: bool = False) -> None:
        """Raises Forbidden for what is never allowed, Overloaded for what is not allowed now.

        A text that goes on may overdraw another minute's worth: it was let in, and its line broke.
        """
        quota, now = self.quota, self._clock()
        if slo:
            self._check_slo(slo)
        if quota.max_sessions is not None and self.num_sessions >= quota.max_sessions:
            raise Overloaded(
                f"this key has all its {quota.max_sessions} sessions open: let one end first",
                _SESSION_WAIT_S,
            )
        for bucket, what in ((self._requests, "requests"), (self._tokens, "tokens")):
            if bucket and (wait_s := bucket.wait_s(1.0 - resumes * bucket.limit, now)):
                raise Overloaded(
                    f"this key may use {bucket.limit} {what} a minute: try again in {wait_s:.1f} s",
                    wait_s,
                )

    def opened(self, num_tokens: int) -> None:
        """A session with so many tokens of prompt, which are computed again for a resume."""
        self.num_sessions += 1
        self._take(1, num_tokens)

    def used(self, num_tokens: int) -> None:
        """Of an answer."""
        self._take(0, num_tokens)

    def closed(self) -> None:
        self.num_sessions -= 1

    def refund(self, num_tokens: int) -> None:
        """The request was refused after all."""
        self._take(-1, -num_tokens)

    def headers(self) -> dict[str, str]:
        """OpenAI's, about what has a limit."""
        now = self._clock()
        found = {}
        for bucket, what in ((self._requests, "requests"), (self._tokens, "tokens")):
            if bucket:
                found[f"x-ratelimit-limit-{what}"] = str(bucket.limit)
                found[f"x-ratelimit-remaining-{what}"] = str(max(0, math.floor(bucket.level(now))))
                found[f"x-ratelimit-reset-{what}"] = f"{bucket.wait_s(bucket.limit, now):.3f}s"
        return found

    def _check_slo(self, slo: Slo) -> None:
        allowed = self.quota.slo_classes
        if allowed is not None and slo.name not in allowed:
            raise Forbidden(
                f"this key may not ask for the SLO class '{slo.name}': use one of "
                f"{', '.join(allowed)}"
            )
        most = self.quota.max_priority
        if most is not None and slo.priority > most:
            raise Forbidden(
                f"this key may ask for a priority of {most} at most, and the SLO class "
                f"'{slo.name}' has {slo.priority}: use another class"
            )

    def _take(self, num_requests: int, num_tokens: int) -> None:
        now = self._clock()
        if self._requests:
            self._requests.take(num_requests, now)
        if self._tokens:
            self._tokens.take(num_tokens, now)


def _bucket(before: Bucket | None, per_minute: int | None, now: float) -> Bucket | None:
    if before and before.limit == per_minute:
        return before
    return None if per_minute is None else Bucket(per_minute, now)
