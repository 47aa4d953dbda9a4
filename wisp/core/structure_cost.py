"""How large the automaton of a structure may become, which a few characters can ask for. Pure."""

from __future__ import annotations

import json
import re
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from wisp.errors import BadRequest

# States that a structure may be expanded to. Chosen: what people write has hundreds, and a compiler
# takes some 10 ms for so many.
MAX_STATES = 20_000
# How deep a schema may be nested. Chosen: as a request's body may.
_MAX_DEPTH = 64
_COUNT = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
# The bounds of JSON Schema that multiply what they stand beside.
_BOUNDS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def check_cost(kind: str, text: str) -> None:
    """Raises BadRequest for a structure that would be too large; what is wrong, others say."""
    try:
        states = _STATES[kind](text)
    except RecursionError:
        states = MAX_STATES + 1
    if states > MAX_STATES:
        raise BadRequest(
            f"the structure would have more than {MAX_STATES} states: lower its repetitions",
            param="structured_outputs",
        )


def _of_choice(text: str) -> int:
    return len(text)


def _of_regex(text: str) -> int:
    try:
        parsed = parser.parse(text)
    except (re.error, OverflowError, ValueError):  # another dialect, perhaps
        return _of_grammar(text)
    return _of_items(parsed)


def _of_items(items: Any) -> int:
    total = 0
    for code, value in items:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            low, high, inner = value
            times = low if high is codes.MAXREPEAT else high
            total += max(1, int(times)) * max(1, _of_items(inner))
        elif code is codes.BRANCH:
            total += sum(_of_items(branch) for branch in value[1])
        elif code is codes.SUBPATTERN:
            total += _of_items(value[-1])
        elif code in (codes.ASSERT, codes.ASSERT_NOT, codes.ATOMIC_GROUP):
            total += _of_items(value[1] if isinstance(value, tuple) else value)
        else:
            total += 1
        if total > MAX_STATES:
            return total
    return total


def _of_grammar(text: str) -> int:
    """Its counts may be nested, so the largest of them multiply."""
    states = len(text)
    for low, high in _COUNT.findall(text):
        states *= max(1, int(high[:6] or 0), int(low[:6] or 0))
        if states > MAX_STATES**2:
            break
    return states if _COUNT.search(text) else min(states, MAX_STATES)


def _of_json(text: str) -> int:
    try:
        schema = json.loads(text)
    except ValueError:
        return 0
    return _of_schema(schema, 0)


def _of_schema(schema: Any, depth: int) -> int:
    if depth > _MAX_DEPTH:
        return MAX_STATES + 1
    if isinstance(schema, list):
        return sum(_of_schema(each, depth + 1) for each in schema)
    if not isinstance(schema, dict):
        return 1
    times = 1
    for name in _BOUNDS:
        bound = schema.get(name)
        if isinstance(bound, int | float):
            times = max(times, int(min(bound, MAX_STATES + 1)))
    inner = 1
    for name, value in schema.items():
        if name == "pattern" and isinstance(value, str):
            inner += _of_regex(value)
        elif name not in ("description", "title", "examples", "default"):
            inner += _of_schema(value, depth + 1)
        if inner * times > MAX_STATES:
            break
    return inner * times


_STATES = {
    "json": _of_json,
    "regex": _of_regex,
    "choice": _of_choice,
    "grammar": _of_grammar,
    "structural_tag": _of_json,  # schemas within an object
}
