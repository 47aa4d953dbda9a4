"""Text to tokens and back, for any Hugging Face directory; the same code in both halves."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RawTokenizer
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from wisp.errors import BadRequest, ConfigError, HandshakeError
from wisp.models.token_bytes import TokenBytes

# The parts of a tokenizer.json that an edge takes from the server. What is left is the model, with
# the vocabulary, in which both ends must agree.
_RULES = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")


class Tokenizer:
    """A tokenizer with its chat template.

    `vocabulary` names the map from tokens to ids: two ends may exchange token ids only if theirs
    are equal. `fingerprint` names all that decides a prompt, and the text of an answer.
    """

    def __init__(self, directory: str | Path) -> None:
        """Raises ConfigError if the directory holds no tokenizer."""
        self.name = Path(directory).name
        try:
            self._hf: Any = AutoTokenizer.from_pretrained(
                str(directory), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no tokenizer can be loaded from '{directory}': give a local Hugging Face "
                f"directory with a tokenizer.json ({str(error).splitlines()[0]})"
            ) from error
        vocabulary = self._hf.get_vocab()
        self.longest_token = max(map(len, vocabulary), default=1)  # characters of text at most
        backend = getattr(self._hf, "backend_tokenizer", None)
        raw = json.loads(backend.to_str()) if backend is not None else {}
        self._model = raw.get("model", type(self._hf).__name__)
        lines = "\n".join(f"{token}\t{id}" for token, id in sorted(vocabulary.items()))
        self.vocabulary = hashlib.sha256(lines.encode()).hexdigest()[:16]
        self._take(
            {
                "model": _digest(self._model),
                "chat_template": self._hf.chat_template,
                "special_tokens": {k: str(v) for k, v in self._hf.special_tokens_map.items()},
                **{name: raw[name] for name in _RULES if name in raw},
            }
        )

    @property
    def rules(self) -> str:
        """All but the vocabulary, for `with_rules` of another one's tokenizer."""
        return json.dumps(self._rules, ensure_ascii=False)

    def with_rules(self, rules: str) -> Tokenizer:
        """This vocabulary with the rules of another tokenizer: it makes that one's prompts.

        Raises HandshakeError if it cannot.
        """
        told = json.loads(rules)
        if told["model"] != self._rules["model"]:
            raise HandshakeError(
                f"the tokenizer '{self.name}' splits words in another way than the target's: use "
                "a drafter with the target's tokenizer"
            )
        other = copy.copy(self)
        other._take(told)
        return other

    def _take(self, rules: dict[str, Any]) -> None:
        self._rules = rules
        self.fingerprint = _digest([self.vocabulary, rules])
        self._raw: RawTokenizer | None = None
        decoder = rules.get("decoder")
        if "decoder" in rules:
            # Not the library's own object: what it does depends on the calls before.
            data = {name: rules[name] for name in _RULES} | {"model": self._model}
            raw = {"version": "1.0", "truncation": None, "padding": None, **data}
            self._raw = RawTokenizer.from_str(json.dumps(raw, ensure_ascii=False))
        names = {token["id"]: token["content"] for token in rules.get("added_tokens", ())}
        special = {token["id"] for token in rules.get("added_tokens", ()) if token["special"]}
        self.bytes = TokenBytes(decoder, self.token_name, added=names, special=special)

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Tokens of a plain prompt, with the model's own beginning token if it has one."""
        return self._encode(text, add_special_tokens=special_tokens)

    def chat_template(self, *, with_tools: bool = False) -> str | None:
        """The one that conversations are written by; with tools it may be another one."""
        template: str | dict[str, str] | None = self._rules["chat_template"]
        if isinstance(template, dict):  # several by name
            return template.get("tool_use" if with_tools else "", template.get("default"))
        return template

    @property
    def knows_tools(self) -> bool:
        return "tools" in (self.chat_template(with_tools=True) or "")

    @property
    def reserved_variables(self) -> set[str]:
        """Of the chat template: no client can set them."""
        return _OURS | set(self._rules["special_tokens"])

    def encode_chat(
        self,
        messages: Sequence[dict[str, Any]],
        variables: dict[str, Any] | None = None,
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[int]:
        """Tokens of a conversation, ready for the assistant's answer.

        `variables` are the template's own. Raises BadRequest when the model has no chat template or
        one without tools, when a variable is not the client's to set, or the template refuses.
        """
        template = self.chat_template(with_tools=bool(tools))
        if tools and not self.knows_tools:
            raise BadRequest(
                f"'{self.name}' knows no tools: its chat template has none; leave them out",
                param="tools",
            )
        if template is None:
            raise BadRequest(
                f"'{self.name}' has no chat template: use /v1/completions", param="messages"
            )
        special = self._rules["special_tokens"]
        for name in variables or {}:
            if name in self.reserved_variables:
                raise BadRequest(
                    f"'{name}' cannot be set from a request: leave it out",
                    param="chat_template_kwargs",
                )
        try:
            # The library's own reads the local clock: each end of the wire has another one.
            _compile_jinja_template(template).globals["strftime_now"] = _strftime_now
            (text,), _ = render_jinja_template(
                conversations=[list(messages)],
                chat_template=template,
                tools=list(tools) or None,
                add_generation_prompt=True,
                **special,
                **(variables or {}),
            )
        except Exception as error:  # a template is a program of the model's author
            raise BadRequest(f"the chat template refuses: {error}", param="messages") from error
        return self._encode(text, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text, without special tokens."""
        if self._raw is not None:
            return self._raw.decode(list(tokens), skip_special_tokens=True)
        text = self._hf.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def token_ids(self) -> dict[str, int]:
        """The id of each token, as the tokenizer writes tokens."""
        return dict(self._hf.get_vocab())

    def token_text(self, token: int) -> str:
        """One token alone, special tokens as they are written."""
        return str(self._hf.decode([token], skip_special_tokens=False))

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        encoder = self._raw or self._hf
        encoded = encoder.encode(text, add_special_tokens=add_special_tokens)
        return list(encoded if isinstance(encoded, list) else encoded.ids)

    def token_name(self, token: int) -> str | None:
        if self._raw is not None:
            return self._raw.id_to_token(token)
        name = self._hf.convert_ids_to_tokens(token)
        return None if name is None else str(name)

    def __len__(self) -> int:
        return len(self._hf)


def _strftime_now(form: str) -> str:
    return datetime.now(UTC).strftime(form)


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


# What the template is rendered with; the rest of its variables are a client's to set.
_OURS = {
    *inspect.signature(render_jinja_template).parameters,
    "messages",
    "raise_exception",
    "strftime_now",
}
