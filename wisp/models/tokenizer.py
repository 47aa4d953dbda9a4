"""Text to tokens and back, for any Hugging Face directory; the same code in both halves."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from wisp.errors import BadRequest, ConfigError

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


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

    def __len__(self) -> int:
        return len(self._tokenizer)


class Detokenizer:
    """Text as its tokens arrive, never half a character.

    Only the last few tokens are decoded again: `_prefix` .. `_read` is text that was already given
    out and is decoded once more so that joins (spaces, byte pairs) come out as in the whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._prefix = 0
        self._read = 0

    def add(self, tokens: list[int]) -> str:
        self._tokens.extend(tokens)
        before = self._tokenizer.decode(self._tokens[self._prefix : self._read])
        text = self._tokenizer.decode(self._tokens[self._prefix :])
        if text.endswith(_REPLACEMENT):  # the rest of the character is still to come
            return ""
        self._prefix, self._read = self._read, len(self._tokens)
        return text[len(before) :]

    def flush(self) -> str:
        """What is left at the end, an unfinished character included."""
        before = self._tokenizer.decode(self._tokens[self._prefix : self._read])
        text = self._tokenizer.decode(self._tokens[self._prefix :])
        self._prefix = self._read = len(self._tokens)
        return text[len(before) :]
