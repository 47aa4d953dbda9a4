"""Text to tokens and back, for any Hugging Face directory; the same code in both halves."""

from __future__ import annotations

import hashlib
import inspect
import re
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from wisp.errors import BadRequest, ConfigError

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Tokenizer:
    """A tokenizer with its chat template.

    `fingerprint` names the map from tokens to ids: two ends may exchange token ids only if theirs
    are equal.
    """

    def __init__(self, directory: str | Path) -> None:
        """Raises ConfigError if the directory holds no tokenizer."""
        self.name = Path(directory).name
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(directory))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no tokenizer can be loaded from '{directory}': give a local Hugging Face "
                f"directory with a tokenizer.json ({str(error).splitlines()[0]})"
            ) from error
        vocabulary = self._tokenizer.get_vocab()
        lines = "\n".join(f"{token}\t{id}" for token, id in sorted(vocabulary.items()))
        self.fingerprint = hashlib.sha256(lines.encode()).hexdigest()[:16]
        self.longest_token = max(map(len, vocabulary), default=1)  # characters of text at most
        self._decoder = _decoder_of(self._tokenizer)
        self._added = set(self._tokenizer.get_added_vocab().values())

    def encode(self, text: str) -> list[int]:
        """Tokens of a plain prompt, with the model's own beginning token if it has one."""
        return list(self._tokenizer.encode(text))

    def encode_chat(self, messages: list[dict[str, Any]], **template_arguments: Any) -> list[int]:
        """Tokens of a conversation, ready for the assistant's answer.

        Raises BadRequest when the model has no chat template or the template refuses.
        """
        if self._tokenizer.chat_template is None:
            raise BadRequest(
                f"'{self.name}' has no chat template: use /v1/completions", param="messages"
            )
        # the template's own variables are free; how it is applied is not the client's to change
        for name in inspect.signature(self._tokenizer.apply_chat_template).parameters:
            if name in template_arguments and name != "kwargs":
                raise BadRequest(
                    f"'{name}' cannot be set from a request: leave it out",
                    param="chat_template_kwargs",
                )
        try:
            text = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False, **template_arguments
            )
        except Exception as error:  # a template is a program of the model's author
            raise BadRequest(f"the chat template refuses: {error}", param="messages") from error
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def token_text(self, token: int) -> str:
        """One token alone, special tokens as they are written."""
        return str(self._tokenizer.decode([token], skip_special_tokens=False))

    def token_bytes(self, token: int) -> bytes:
        """What one token adds to the text; it may end or begin inside a character."""
        raw = self._tokenizer.convert_ids_to_tokens(token)
        if raw is None:  # padding of the model's vocabulary
            return b""
        if token not in self._added:
            if "ByteLevel" in self._decoder and all(char in _BYTE_OF for char in raw):
                return bytes(_BYTE_OF[char] for char in raw)
            if "ByteFallback" in self._decoder and (match := _BYTE_TOKEN.fullmatch(raw)):
                return bytes.fromhex(match[1])
            if "\N{LOWER ONE EIGHTH BLOCK}" in self._decoder:  # stands for a space
                return str(raw).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()
        return self.token_text(token).encode()

    def __len__(self) -> int:
        return len(self._tokenizer)


def _decoder_of(tokenizer: Any) -> str:
    """How the tokenizer turns tokens to text, as its own JSON; empty if it does not say."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return ""
    return str(backend.decoder.__getstate__().decode())


def _byte_of() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character: its own, or one from 256 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    table = {chr(byte): byte for byte in own}
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_of()


class Detokenizer:
    """Text as its tokens arrive, never half a character; all of it is `decode` of all tokens.

    Only the last few tokens are decoded again: `_prefix` .. `_read` is text that was already given
    out and is decoded once more so that joins (spaces, byte pairs) come out as in the whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._prefix = 0
        self._read = 0
        self._num_given = 0  # characters of the text from _prefix on

    def add(self, tokens: list[int]) -> str:
        self._tokens.extend(tokens)
        text = self._tokenizer.decode(self._tokens[self._prefix :])
        # the rest of a character may be still to come, but what stands before it is certain
        certain = text.rstrip(_REPLACEMENT)
        given = certain[self._num_given :]
        self._num_given = max(self._num_given, len(certain))
        # Tokens without text (special ones) cannot start a window: a decoder that drops the space
        # at the beginning would drop it from the first token behind them.
        if given and len(certain) == len(text):
            self._prefix, self._read = self._read, len(self._tokens)
            self._num_given = len(self._tokenizer.decode(self._tokens[self._prefix : self._read]))
        return given

    def flush(self) -> str:
        """What is left at the end, an unfinished character included."""
        text = self._tokenizer.decode(self._tokens[self._prefix :])
        given = text[self._num_given :]
        self._num_given = len(text)
        return given
