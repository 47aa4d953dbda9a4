"""Drafts from the text itself: what followed its last few tokens the last time they stood in it.

Text repeats itself, and a target that sees all of it often repeats it on: such drafts cost nobody a
draft model, and are there while an edge's are still on their way (or there is no edge).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from wisp.core.acceptance import Acceptance
from wisp.core.drafts import Drafts, Source

# Bits of a token id in the key of an n-gram. Chosen: vocabularies are far smaller than the million
# tokens that it can tell apart, and three ids make a key of one machine word.
_BITS = 20

# How many of a prompt's tokens are looked at, its last ones. Chosen: filling the tables takes some
# milliseconds for so many, within the engine's turn.
_MAX_TEXT = 4096

# The evidence that a text begins with, in draft tokens, and how many of them were accepted.
# Chosen: half of them, for a text is as likely to go on as to leave off where it repeats itself.
_PRIOR_EXAMINED, _PRIOR_ACCEPTED = 4.0, 2.0

# Share of the past that every examined token leaves. Chosen: a memory of 20 tokens, as a text
# repeats itself for a while and then no more.
_KEPT = 0.95


class NgramDrafts(Drafts):
    """The n-gram drafts of one session; all are taken to be equally likely."""

    source = Source.NGRAM

    def __init__(self, prompt: list[int], max_tokens: int) -> None:
        super().__init__()
        self._drafter = NgramDrafter(prompt)
        self._max_tokens = max_tokens
        self._observed = Acceptance(_PRIOR_EXAMINED, _PRIOR_ACCEPTED, _KEPT)

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        self._observed.learn(num_drafted, num_accepted)

    def committed(self, tokens: Sequence[int], end: int, *, keep: bool = False) -> None:
        self._drafter.extend(tokens)
        self.tokens = self._drafter.drafts(self._max_tokens)
        self.acceptance = array("d", [self._observed.rate]) * len(self.tokens)


class NgramDrafter:
    """Finds what followed the text's last three tokens before, or else its last two."""

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
            if end >= 3:
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
