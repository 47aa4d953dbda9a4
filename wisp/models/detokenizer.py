"""Text as its tokens arrive: a function of the tokens alone, not of how they came."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Sequence

from wisp.models.tokenizer import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# The most bytes of a character that can be there before its last one, by the standard RFC 3629.
_MAX_PENDING = 3
# How many tokens before the answer are decoded with it where a token's text depends on the one
# before: as many as vLLM takes for it.
_NUM_CONTEXT = 5


def _one_for_each_byte(error: UnicodeError) -> tuple[str, int]:
    """As the decoder ByteFallback does; byte-level ones have one for the rest of a character."""
    assert isinstance(error, UnicodeDecodeError)
    return _REPLACEMENT * (error.end - error.start), error.end


codecs.register_error("wisp.one_for_each_byte", _one_for_each_byte)


class Detokenizer:
    """The text behind a prompt: what `decode` of both has more than `decode` of the prompt.

    No half character is given out, and none is lost: bytes that belong to no character are
    replacement characters.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        add_up = tokenizer.bytes.add_up
        self._by_token: _Bytes | _Window = (_Bytes if add_up else _Window)(tokenizer, prompt)

    def add(self, tokens: Sequence[int]) -> str:
        return "".join(map(self._by_token.add, tokens))

    def flush(self) -> str:
        """What is left at the end, an unfinished character included."""
        return self._by_token.flush()


class _Bytes:
    """For decoders with which a text is the bytes of its tokens."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._bytes = tokenizer.bytes
        errors = "wisp.one_for_each_byte" if self._bytes.has_fallback else "replace"
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._begun = any(self._bytes.is_visible(token) for token in reversed(prompt))
        self._pending = False  # bytes of the answer may wait in the decoder
        self._decoder.decode(self._end_of(prompt))

    def add(self, token: int) -> str:
        data = self._bytes.in_text(token)
        if not self._begun and self._bytes.is_visible(token):
            self._begun = True
            alone = self._tokenizer.decode([token])
            data = data if _REPLACEMENT in alone else alone.encode()
        self._pending |= bool(data)
        return self._decoder.decode(data)

    def flush(self) -> str:
        left = self._decoder.decode(b"", final=True)
        return left if self._pending else ""

    def _end_of(self, prompt: Sequence[int]) -> bytes:
        """As much as decides whether a character of the prompt's goes on in the answer."""
        data = b""
        for token in reversed(prompt):
            data = self._bytes.in_text(token) + data
            if len(data) >= _MAX_PENDING:
                break
        return data[-_MAX_PENDING:]


class _Window:
    """For all others. Only the last few tokens are decoded again.

    `_prefix` .. `_read` is text that was already given out and is decoded once more so that joins
    (spaces, punctuation) come out as in the whole.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._bytes = tokenizer.bytes
        visible = filter(self._bytes.is_visible, reversed(prompt))
        self._tokens = list(itertools.islice(visible, _NUM_CONTEXT))[::-1]
        self._prefix = 0
        self._read = len(self._tokens)
        self._num_given = len(tokenizer.decode(self._tokens))  # characters from _prefix on

    def add(self, token: int) -> str:
        if not self._bytes.is_visible(token):
            return ""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens[self._prefix :])
        # the rest of a character may be still to come, but what stands before it is certain
        certain = text.rstrip(_REPLACEMENT)
        given = certain[self._num_given :]
        self._num_given = max(self._num_given, len(certain))
        if given and len(certain) == len(text):
            self._prefix, self._read = self._read, len(self._tokens)
            self._num_given = len(self._tokenizer.decode(self._tokens[self._prefix : self._read]))
        return given

    def flush(self) -> str:
        text = self._tokenizer.decode(self._tokens[self._prefix :])
        given = text[self._num_given :]
        self._num_given = len(text)
        return given
