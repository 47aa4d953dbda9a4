"""Drafts from the text itself: what followed its last few tokens the last time they stood in it.

Text repeats itself, and a target that sees all of it often repeats it on: such drafts cost nobody a
draft model, and are there while an edge's are still on their way (or there is no edge).
"""

from __future__ import annotations

from collections.abc import Iterable

_LONG, _SHORT = 3, 2  # tokens that must agree: the longer match is tried first
_BITS = 20  # of a token id in a key
_MAX_TEXT = 4096  # tokens of a prompt that are looked at, its last ones


class NgramDrafter:
    def __init__(self, prompt: list[int]) -> None:
        self._text: list[int] = []
        self._long: dict[int, int] = {}  # the last tokens, packed: the index behind them
        self._short: dict[int, int] = {}
        self._match: int | None = None  # where the text's end stood before
        self.extend(prompt[-_MAX_TEXT:])

    def extend(self, tokens: Iterable[int]) -> None:
        text = self._text
        for token in tokens:
            text.append(token)
            end = len(text)
            if end >= _LONG:
                short = text[-2] << _BITS | token
                long = text[-3] << 2 * _BITS | short
                found = self._long.get(long)
                self._match = self._short.get(short) if found is None else found
                self._long[long] = self._short[short] = end

    def drafts(self, count: int) -> list[int]:
        """Up to `count` tokens that may come next; none where the text's end is new."""
        if self._match is None:
            return []
        found: list[int] = []
        end = len(self._text)
        for index in range(self._match, self._match + count):
            # Where the match runs into the end, the text is a loop: it goes on with itself.
            found.append(self._text[index] if index < end else found[index - end])
        return found
