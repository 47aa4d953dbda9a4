"""How large a request may be, before anything is made of it."""

from __future__ import annotations

from typing import Any

from wisp.errors import BadRequest

# What each token of context adds to the longest body, in bytes. Chosen: three times what a token of
# English text has, or one written with JSON's escapes.
_BYTES_PER_TOKEN = 16
# The longest body apart from its prompt, in bytes. Chosen: a schema, a bias on a thousand tokens
# and the names of everything are far less.
_MIN_BODY_BYTES = 2**20
# Values and names in a body, but for plain lists of token ids. Chosen: more than a conversation of
# MAX_ITEMS messages has, and checked in milliseconds.
_MAX_VALUES = 2**16
# Items of one list or object, but for plain lists of token ids. Chosen: nobody reads a conversation
# of more messages, and a template renders so many empty ones in 0.2 s.
MAX_ITEMS = 4096
# How deep a body may be nested. Chosen: schemas that people write have less than a dozen levels.
_MAX_DEPTH = 64


def max_body_bytes(max_model_len: int) -> int:
    """Whatever fits the model's context fits into this."""
    return _MIN_BODY_BYTES + _BYTES_PER_TOKEN * max_model_len


def check_bounds(body: Any) -> None:
    """Raises BadRequest for more than anybody needs: each value may cost much to look at later."""
    num_values, level = 0, [body]
    for _ in range(_MAX_DEPTH):
        following: list[Any] = []
        for container in level:
            if isinstance(container, dict):
                values = list(container.values())
            elif all(type(item) is int for item in container):
                continue
            else:
                values = container
            if len(values) > MAX_ITEMS:
                raise BadRequest(
                    f"a list or an object of the body has {len(values)} items, but at most "
                    f"{MAX_ITEMS} are taken: send fewer"
                )
            num_values += len(values)
            if num_values > _MAX_VALUES:
                raise BadRequest(
                    f"the body has more than {_MAX_VALUES} values: send fewer in one request"
                )
            following += [value for value in values if isinstance(value, dict | list)]
        level = following
        if not level:
            return
    raise BadRequest(f"the body is nested deeper than {_MAX_DEPTH} levels: make it flatter")
