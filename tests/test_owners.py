"""State has owners: whoever wants to change a session says by a method what happened to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
OWNER = ROOT / "wisp" / "core" / "session.py"
# Other objects with attributes of the same names: a seat says whether its session's edge is late,
# an edge's own end of the stream has a directive, a benchmark's edge has drafts, vLLM's scheduler
# has deadlines, a flag says how a shell completes it.
OTHERS = {"action", "seat", "seats", "stream", "_stream", "edge", "scheduler"}


def assigned(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Every attribute that something is assigned to, or that is deleted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            yield node


def owner_name(node: ast.expr) -> str:
    """The last name before the attribute: `session` of seat.session, `seats` of seats[0]."""
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value):
            return owner_name(value)
        case _:
            return ""


def attributes() -> set[str]:
    """Of a session and of the parts that it owns."""
    files = [OWNER, OWNER.with_name("draft_stream.py")]
    found = {
        node.attr
        for path in files
        for node in assigned(ast.parse(path.read_text()))
        if owner_name(node.value) == "self"
    }
    return found | {"tokens", "acceptance"}


def writes(source: str, names: set[str]) -> list[int]:
    """Lines that assign to attributes of sessions."""
    return [
        node.lineno
        for node in assigned(ast.parse(source))
        if node.attr in names and owner_name(node.value) not in OTHERS | {"self"}
    ]


def test_a_session_changes_through_its_own_methods_alone() -> None:
    names = attributes()
    assert {"num_computed", "directive", "edge_late", "promised_s"} <= names
    paths = [*(ROOT / "wisp").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    offenders = {
        str(path.relative_to(ROOT)): lines
        for path in paths
        if path != OWNER and (lines := writes(path.read_text(), names))
    }
    assert offenders == {}


def test_a_write_from_outside_is_found() -> None:
    names = {"num_computed", "edge_late"}
    assert writes("seat.session.num_computed += 1", names) == [1]
    assert writes("session.num_computed, other = 1, 2", names) == [1]
    assert writes("seats[0].edge_late = True", names) == []
    assert writes("print(session.num_computed)", names) == []
