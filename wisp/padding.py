"""Messages of one size at fixed times, so that a line tells nothing of what speculation does.

From the sizes and times of speculative rounds prompts can be recognised (arXiv 2411.01076).
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from msgspec import Struct

from wisp.config import PaddingSettings
from wisp.v1 import wisp_pb2 as pb

# What a piece of padding takes beside its own bytes: by definition of protobuf a tag and a length.
_HEAD_BYTES = 2
# The longest piece of padding, in bytes: by definition the most that protobuf counts in one byte.
_MAX_PIECE = 127

AnyMessage = TypeVar("AnyMessage", pb.EdgeMessage, pb.ServerMessage)


class Padding(Struct, frozen=True):
    """How one end sends."""

    message_bytes: int  # size of every message; one that does not fit takes a multiple of it
    interval_s: float  # between two messages, whether there is anything to say or not

    def pad(self, message: AnyMessage) -> AnyMessage:
        """The message itself, with padding up to the next multiple of `message_bytes`."""
        size = message.ByteSize()
        lacks = -size % self.message_bytes if size else self.message_bytes
        if lacks == 1:  # a piece takes two bytes at least
            lacks += self.message_bytes
        while lacks:
            piece = min(lacks, _HEAD_BYTES + _MAX_PIECE)
            if lacks - piece == 1:
                piece -= 1
            message.padding.append(bytes(piece - _HEAD_BYTES))
            lacks -= piece
        return message

    def fits(self, message: pb.EdgeMessage) -> bool:
        """Whether it is padded to one `message_bytes`, not to several."""
        return message.ByteSize() <= self.message_bytes - _HEAD_BYTES


def padding_of(settings: PaddingSettings) -> Padding | None:
    """None: nothing is padded."""
    if not settings.message_bytes:
        return None
    return Padding(settings.message_bytes, settings.interval_s)


class Ticks:
    """Fixed times: late work leaves some of them out, and moves none."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._clock = asyncio.get_running_loop().time
        self._start_s = self._clock()
        self._num = 0

    async def wait(self) -> None:
        """Until the next one."""
        since_s = self._clock() - self._start_s
        self._num = max(self._num + 1, int(since_s / self._interval_s) + 1)
        await asyncio.sleep(self._num * self._interval_s - since_s)


def is_cover(message: pb.EdgeMessage | pb.ServerMessage) -> bool:
    """Whether it holds padding alone."""
    return message.WhichOneof("message") is None and bool(message.padding)
