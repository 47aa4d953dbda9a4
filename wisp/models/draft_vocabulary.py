"""Which of the target's tokens a drafter knows, and under which ids of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wisp.errors import ConfigError

# A drafter that knows only frequent tokens has their ids in this file beside its weights.
FILE = "draft_vocabulary.json"
# What the drafter is given for a token that it does not know: by definition its first one.
_UNKNOWN = 0
_ANY = 1 << 31  # more than any id: by definition of int32, in which all libraries keep them


class Vocabulary:
    """`ids` are the target's ids of the drafter's tokens, in order; None if they are the same."""

    def __init__(self, ids: Sequence[int] | None = None, size: int | None = None) -> None:
        """`size`: the tokens that count; a model may have more, as padding."""
        self.ids: NDArray[np.int64] | None = None if ids is None else np.asarray(ids, np.int64)
        self.size = size if ids is None else len(ids)
        self._own = {} if ids is None else {token: own for own, token in enumerate(ids)}

    def bound(self, num_logits: int) -> int:
        """The drafter can be given the target's ids below this."""
        if self.ids is not None:
            return _ANY
        return num_logits if self.size is None else self.size

    def own(self, tokens: Sequence[int]) -> Sequence[int]:
        """The target's tokens as the drafter calls them."""
        if self.ids is None:
            return tokens
        return [self._own.get(token, _UNKNOWN) for token in tokens]


def read_vocabulary(directory: Path, num_logits: int) -> Vocabulary:
    """Of a Hugging Face directory. Raises ConfigError if its file does not suit the model."""
    file = directory / FILE
    if not file.is_file():
        return Vocabulary()
    try:
        ids = json.loads(file.read_text())
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    if not isinstance(ids, list) or len(set(ids)) != num_logits:
        raise ConfigError(f"{file} must list {num_logits} different ids: one for each logit")
    return Vocabulary(ids)


def match(own: Sequence[str], target: Mapping[str, int], name: str) -> Vocabulary:
    """Of a drafter whose tokens are `own`, in order of their ids, for a target with these.

    They must be the target's, or some of them. Raises ConfigError if they are of another tokenizer.
    """
    by_id = {number: token for token, number in target.items()}
    count = min(len(own), len(by_id))
    if all(by_id.get(number) == own[number] for number in range(count)):
        if len(own) >= len(by_id):
            return Vocabulary(size=count)  # what is beyond is padding
        return Vocabulary(range(count))
    strange = [number for number, token in enumerate(own) if token not in target]
    if strange or len(set(own)) < len(own):
        first = strange[0] if strange else 0
        raise ConfigError(
            f"{name} has another tokenizer than the target: {len(strange)} of its {len(own)} "
            f"tokens are not the target's, the first is {own[first]!r} (id {first})"
        )
    return Vocabulary([target[token] for token in own])
