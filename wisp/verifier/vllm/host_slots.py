"""Which slot of host memory keeps which block of KV, by the block's name: no I/O.

A name stands for all tokens up to a block's end, so equal prefixes are kept once. Names that
somebody relies on stay; of the others the one unused for longest gives way.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence


class HostSlots:
    def __init__(self, num_slots: int) -> None:
        self._free = list(range(num_slots))
        self._idle: OrderedDict[Hashable, int] = OrderedDict()  # the longest unused first
        self._held: dict[Hashable, int] = {}
        self._num_holders: Counter[Hashable] = Counter()

    @property
    def num_free(self) -> int:
        """Slots that may be had."""
        return len(self._free) + len(self._idle)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._held or name in self._idle

    def slot(self, name: Hashable) -> int:
        """Of a name that is held."""
        return self._held[name]

    def hold(self, names: Sequence[Hashable]) -> set[Hashable] | None:
        """Keep these until they are released; returns those that are new, whose slots are to be
        filled. None: there is no room, and nothing has changed."""
        new = [name for name in names if name not in self]
        num_idle = sum(name in self._idle for name in names)
        if len(new) > self.num_free - num_idle:
            return None
        for name in names:
            if name in self._idle:
                self._held[name] = self._idle.pop(name)
            self._num_holders[name] += 1
        for name in new:
            self._held[name] = self._free.pop() if self._free else self._idle.popitem(last=False)[1]
        return set(new)

    def release(self, names: Sequence[Hashable]) -> None:
        """The last ones are the first to give way: no other can be used without those before it."""
        for name in reversed(names):
            self._num_holders[name] -= 1
            if not self._num_holders[name]:
                del self._num_holders[name]
                self._idle[name] = self._held.pop(name)

    def forget(self, name: Hashable) -> None:
        """One that nobody holds will not be asked for again."""
        self._free.append(self._idle.pop(name))
