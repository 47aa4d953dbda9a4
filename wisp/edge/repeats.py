"""What followed a pair of tokens the last time it stood in a text.

A target that sees far copies more from its context than a small drafter does, so whether a draft
token repeats what came before says something that the drafter's own probabilities do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Repeats:
    def __init__(self, text: Iterable[int]) -> None:
        self._followers: dict[tuple[int, int], int] = {}
        self._last = (-1, -1)
        self.extend(text)

    def extend(self, text: Iterable[int]) -> None:
        for token in text:
            self._followers[self._last] = token
            self._last = (self._last[1], token)

    def agree(self, before: Sequence[int], token: int) -> int:
        """1 if `token` followed the last two of `before`, -1 if another did, 0 if none ever."""
        follower = self._followers.get((before[-2], before[-1])) if len(before) > 1 else None
        if follower is None:
            return 0
        return 1 if follower == token else -1
