"""A disk on which nothing more can be written, for everything in this process."""

from __future__ import annotations

import asyncio
import resource


class Disk:
    """Of this process: the kernel refuses to let its files grow, pipes and sockets go on.

    It is the limit on the size of files, which anybody may lower: `write` fails with EFBIG, where a
    full disk has ENOSPC, as often in the middle of a file as at its beginning.
    """

    def __init__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.has_room = asyncio.Event()
        self.has_room.set()

    @property
    def full(self) -> bool:
        return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != self._before[0]

    def fill(self, max_bytes: int) -> None:
        """Files may have so many bytes and no more."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, self._before[1]))
        self.has_room.clear()

    def clear(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)
        self.has_room.set()
