"""What a session is promised, and whether it gets it, as whoever takes its verdicts sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct, structs

from wisp.errors import BadRequest

# The bounds of a promise, in tokens/s and in seconds. Chosen: nobody means less or more, and no
# time that is reckoned from them overflows.
_MIN_PROMISE, _MAX_PROMISE = 1e-3, 1e6


class Slo(Struct, frozen=True, kw_only=True):
    """What a session was promised."""

    tokens_per_s: float
    first_token_s: float
    name: str = "custom"  # its class; this one is for numbers that a request brought itself
    priority: int = 0  # a session may be shed for one of a higher priority


SloChoice = Slo | str | None  # a request's: numbers, a class by name, or the default class


class SloClasses:
    """Those of a server, by name; a "custom" one is nobody's but its request's."""

    def __init__(self, default: Slo, others: Iterable[Slo] = ()) -> None:
        self._default = default
        self._by_name = {slo.name: slo for slo in (default, *others)}

    @property
    def all(self) -> list[Slo]:
        """In the order of their names."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def promise(self, asked: SloChoice) -> Slo:
        """What a request gets; its own numbers have the default class's priority.

        Raises BadRequest.
        """
        if asked is None:
            return self._default
        if isinstance(asked, str):
            if asked not in self._by_name:
                names = ", ".join(sorted(self._by_name))
                raise BadRequest(f"there is no SLO class '{asked}': use one of {names}", "slo")
            return self._by_name[asked]
        for number in (asked.tokens_per_s, asked.first_token_s):
            if not _MIN_PROMISE <= number <= _MAX_PROMISE:
                raise BadRequest(
                    f"an SLO's rate and first-token time are {_MIN_PROMISE:g} to "
                    f"{_MAX_PROMISE:g}, not {number:g}",
                    param="slo",
                )
        return structs.replace(asked, name="custom", priority=self._default.priority)


class Attainment:
    """Of one session.

    Think of a reader who reads at the promised rate from the first token on. A token is in time if
    it is there when the reader wants it; after a late one the reader goes on from there. So tokens
    may come in bursts, as they do with drafts, as long as the reader never waits.
    """

    def __init__(self, slo: Slo, opened_s: float) -> None:
        self.slo = slo
        self.num_tokens = self.num_in_time = 0
        self.first_token_s: float | None = None  # after the opening
        self._opened_s = opened_s
        self._wanted_s = opened_s + slo.first_token_s  # when the reader wants the next token
        self._num_first = 0  # tokens that came together with the first
        self._last_s = opened_s

    def add(self, num_tokens: int, now: float) -> int:
        """So many tokens came; returns how many of them in time."""
        if num_tokens and self.first_token_s is None:
            self.first_token_s = now - self._opened_s
            self._num_first = num_tokens
        before = self.num_in_time
        for _ in range(num_tokens):
            self.num_in_time += now <= self._wanted_s
            self._wanted_s = max(self._wanted_s, now) + 1.0 / self.slo.tokens_per_s
        self.num_tokens += num_tokens
        self._last_s = now
        return self.num_in_time - before

    @property
    def first_token_attained(self) -> bool:
        return self.first_token_s is not None and self.first_token_s <= self.slo.first_token_s

    @property
    def tokens_per_s(self) -> float | None:
        """From the first token to the last; None while there is no time between them."""
        if self.first_token_s is None:
            return None
        elapsed_s = self._last_s - self._opened_s - self.first_token_s
        return (self.num_tokens - self._num_first) / elapsed_s if elapsed_s > 0 else None

    @property
    def rate_attained(self) -> bool:
        rate = self.tokens_per_s
        return rate is None or rate >= self.slo.tokens_per_s

    def usage(self) -> dict[str, Any]:
        """For the response's `usage.wisp`."""
        return {
            "slo_class": self.slo.name,
            "slo_met": self.first_token_attained and self.rate_attained,
            "share_in_time": self.num_in_time / max(1, self.num_tokens),
            "first_token_s": self.first_token_s,
            "tokens_per_s": self.tokens_per_s,
        }
