from __future__ import annotations

import json
from typing import Any

import pytest

from wisp.core.structure_cost import check_cost
from wisp.errors import BadRequest

DEEP: dict[str, Any] = {"type": "object"}
for _ in range(100):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", "((a{1,100}){1,100}){1,100}"),
        ("regex", "a{0,1000000}"),
        ("regex", "(a|b|c|d){99999}"),
        ("regex", "(" * 2000 + "a" + ")" * 2000),
        ("json", json.dumps({"type": "string", "maxLength": 10**9})),
        ("json", json.dumps({"type": "string", "pattern": "(a{1,1000}){1,1000}"})),
        (
            "json",
            json.dumps(
                {
                    "type": "array",
                    "maxItems": 1000,
                    "items": {"type": "array", "maxItems": 1000, "items": {}},
                }
            ),
        ),
        ("json", json.dumps({"enum": [[str(n)] for n in range(30_000)]})),
        ("json", json.dumps(DEEP)),
        ("grammar", 'root ::= ("a"{1,1000}){1,1000}'),
    ],
)
def test_a_bomb_is_refused(kind: str, text: str) -> None:
    with pytest.raises(BadRequest, match="states"):
        check_cost(kind, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?Z"),
        ("regex", r"[A-Za-z0-9._%+-]{1,64}@[a-z0-9.-]{1,255}\.[a-z]{2,24}"),
        ("regex", "[ab]+("),
        ("choice", json.dumps([f"choice {n}" for n in range(1000)])),
        ("grammar", 'root ::= "a" | "b" root'),
        ("json", "{"),
        ("json", json.dumps({"type": "object"})),
        (
            "json",
            json.dumps(
                {
                    "type": "object",
                    "properties": {
                        f"field_{n}": {"type": "string", "maxLength": 20} for n in range(100)
                    },
                }
            ),
        ),
    ],
)
def test_what_people_write_passes(kind: str, text: str) -> None:
    check_cost(kind, text)
