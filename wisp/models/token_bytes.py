"""What one token adds to a text, in bytes: it may begin or end inside a character."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """Of a tokenizer with the decoder of this JSON (None: it has none, or does not say).

    With most decoders a text is the bytes of its tokens, one after the other: then `add_up`. The
    beginning of a text can be an exception, where a decoder drops the space before its first word.
    """

    def __init__(
        self,
        decoder: dict[str, Any] | None,
        name: Callable[[int], str | None],
        *,
        added: Mapping[int, str],
        special: Collection[int],
    ) -> None:
        self._decoders = _flat(decoder)
        self._kinds = [part["type"] for part in self._decoders]
        self._name = name
        self._added = added
        self._special = special
        self._known: dict[int, bytes] = {}
        self.add_up = _adds_up(self._decoders)
        self.has_fallback = "ByteFallback" in self._kinds

    def in_text(self, token: int) -> bytes:
        """Nothing for special tokens, and for ids that the tokenizer does not know."""
        if token in self._special:
            return b""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._of(token)
        return found

    def written(self, token: int) -> bytes:
        """The same, but for special tokens, which are there as they are written."""
        return self._added[token].encode() if token in self._special else self.in_text(token)

    def is_visible(self, token: int) -> bool:
        """Whether a text begins with it, if it is the first one."""
        return token not in self._special and self._name(token) is not None

    def _of(self, token: int) -> bytes:
        name = self._name(token)
        if name is None:  # padding of the model's vocabulary
            return b""
        if self._kinds == ["ByteLevel"]:
            data = bytes(_BYTE_OF[char] for char in name if char in _BYTE_OF)
            return data if len(data) == len(name) else name.encode()
        if self.has_fallback and (match := _BYTE_TOKEN.fullmatch(name)):
            return bytes.fromhex(match[1])
        for part in self._decoders:
            if part["type"] == "Metaspace":
                name = name.replace(part["replacement"], " ")
            elif part["type"] == "Replace" and "String" in part["pattern"]:
                name = name.replace(part["pattern"]["String"], part["content"])
        return name.encode()


def _flat(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    return decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]


def _adds_up(decoders: list[dict[str, Any]]) -> bool:
    kinds = [part["type"] for part in decoders]
    if kinds in (["ByteLevel"], ["Metaspace"], ["ByteFallback", "Metaspace"]):
        return True
    # SentencePiece: a Replace of one character is the same before and behind a Fuse.
    return bool(kinds) and all(
        (part["type"] in ("ByteFallback", "Fuse"))
        or (part["type"] == "Strip" and part["stop"] == 0 and "Fuse" in kinds[:place])
        or (part["type"] == "Replace" and len(part["pattern"].get("String", "")) == 1)
        for place, part in enumerate(decoders)
    )


def _byte_of() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character: its own, or one from 256 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    table = {chr(byte): byte for byte in own}
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_of()
