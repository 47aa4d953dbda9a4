"""The KV of conversations that nobody drafts for now, in host memory: their next turns begin there.

What is parked is known by its tokens. It stays when it is loaded, so turns that go on differently
from one point find it, too; what was used longest ago gives way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wisp.core.prefix import common_prefix

# Tokens that are worth a copy. Chosen: fewer are computed in one forward that takes little longer
# than that of a single token.
_LEAST = 32


class Slots(Protocol):
    """A model's cache, one sequence in each slot."""

    def num_bytes(self, slot: int, num_tokens: int) -> int:
        """Of the keys and values of a slot's first tokens."""

    def save(self, slot: int, num_tokens: int) -> Any:
        """A copy of them in host memory."""

    def restore(self, slot: int, saved: Any) -> bool:
        """What `save` returned, into any slot; False: that cannot be done now."""


@dataclass(slots=True, eq=False)
class _Entry:
    tokens: list[int]
    saved: Any
    num_bytes: int


class Parked:
    """At most `max_bytes` of them; 0: none is kept."""

    def __init__(self, slots: Slots, max_bytes: int) -> None:
        self._slots = slots
        self._max_bytes = max_bytes
        self._entries: list[_Entry] = []  # the one used longest ago first
        self.num_bytes = 0

    def park(self, slot: int, tokens: Sequence[int]) -> None:
        """Keep what a slot holds; an earlier turn of the same conversation is in it."""
        if len(tokens) < _LEAST or not self._max_bytes:
            return
        num_bytes = self._slots.num_bytes(slot, len(tokens))
        if num_bytes > self._max_bytes:
            return
        for entry in list(self._entries):
            if common_prefix(entry.tokens, tokens) == len(entry.tokens):
                self._drop(entry)
        while self.num_bytes + num_bytes > self._max_bytes:
            self._drop(self._entries[0])
        self._entries.append(_Entry(list(tokens), self._slots.save(slot, len(tokens)), num_bytes))
        self.num_bytes += num_bytes

    def load(self, slot: int, tokens: Sequence[int], num_held: int) -> int:
        """Put the longest parked prefix of `tokens` into a slot that holds `num_held` of them, if
        that brings enough; returns how many it holds then."""
        if len(tokens) - num_held < _LEAST:
            return num_held
        shared = [common_prefix(entry.tokens, tokens) for entry in self._entries]
        num_found = max(shared, default=0)
        if num_found - num_held < _LEAST:
            return num_held
        entry = self._entries[shared.index(num_found)]
        self._entries.remove(entry)
        self._entries.append(entry)
        return num_found if self._slots.restore(slot, entry.saved) else 0

    def _drop(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        self.num_bytes -= entry.num_bytes
