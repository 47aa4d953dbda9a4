"""House rules that a reader would otherwise have to keep in mind."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WISP = ROOT / "wisp"
GENERATED = WISP / "v1"

# What says where a number comes from. "chosen" is an answer only with its reason.
SOURCE = re.compile(
    r"""chosen:?\ (?:\S+\ ){2}\S+            # by us, and why
    | \bmeasured\b
    | \bpaper\b | \barXiv\b | \((?:19|20)\d\d\) | ,\ (?:19|20)\d\d\b   # somebody's publication
    | \bstandard\b | \bRFC\b | \bIEEE\b | \bUnicode\b | \bPOSIX\b
    | \bOpenAI\b | \bvLLM\b | \bgRPC\b | \bTriton\b | \bprotocol\b      # another party's interface
    | \bdocs/ | \bbenchmarks/ | \btests/ | \b[\w-]+\.(?:com|org|dev|to)/   # a page
    | \bby\ definition\b | \bunits?\b""",
    re.VERBOSE | re.IGNORECASE,
)
MIN_WORDS = 6  # chosen: no sentence that tells both a role and a source is shorter
NAMED_FILE = re.compile(r"\b(?:docs|benchmarks|tests|configs|wisp)/[\w./-]*\w")


def comments(source: str) -> dict[int, tuple[int, str]]:
    """By line: the column where a comment begins, and its words."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: (token.start[1], token.string.lstrip("# "))
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def constants(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """What is assigned at module level, and in capitals in a class, and holds a number."""
    for statement in tree.body:
        yield from _assigned(statement)
        if isinstance(statement, ast.ClassDef):
            for inner in statement.body:
                yield from ((name, node) for name, node in _assigned(inner) if name.isupper())


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    if isinstance(statement, ast.Assign):
        names = ", ".join(ast.unparse(target) for target in statement.targets)
    elif isinstance(statement, ast.AnnAssign):
        names = ast.unparse(statement.target)
    else:
        return
    if statement.value is not None and _holds_a_number(statement.value):
        yield names.strip("()"), statement


def _holds_a_number(value: ast.AST) -> bool:
    """In a tuple, a dictionary, a sum or a call, too; not as an index or in a type."""
    if isinstance(value, ast.Constant):
        return type(value.value) in (int, float)
    if isinstance(value, ast.Subscript):
        return _holds_a_number(value.value)
    return any(_holds_a_number(child) for child in ast.iter_child_nodes(value))


def complaint(source: str, statement: ast.stmt) -> str | None:
    """What the comments beside a constant, or directly above it, do not tell."""
    found = comments(source)
    above: list[str] = []
    line = statement.lineno - 1
    while line in found and found[line][0] == statement.col_offset:
        above.insert(0, found[line][1])
        line -= 1
    beside = [
        found[number][1]
        for number in range(statement.lineno, (statement.end_lineno or 0) + 1)
        if number in found
    ]
    said = " ".join([*above, *beside])
    if not said:
        return "has no comment"
    if len(said.split()) < MIN_WORDS:
        return "has a comment that does not tell both its role and its source"
    if not SOURCE.search(said):
        return "has a comment that does not tell its source"
    missing = [name for name in NAMED_FILE.findall(said) if not (ROOT / name).exists()]
    return f"names {missing[0]}, which does not exist" if missing else None


def complaints(source: str) -> list[str]:
    return [
        f"{statement.lineno}: {name} {said}"
        for name, statement in constants(ast.parse(source))
        if (said := complaint(source, statement))
    ]


def test_every_constant_says_what_it_is_for_and_where_it_comes_from() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{said}"
        for path in sorted(WISP.rglob("*.py"))
        if GENERATED not in path.parents
        for said in complaints(path.read_text())
    ]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("WAIT_S = 3", "has no comment"),
        ("WAIT_S: float = 3.0", "has no comment"),
        ("A, B = 1, 2", "has no comment"),
        ("SIZES = {'a': (1, 2)}", "has no comment"),
        ("SLO = Slo(tokens_per_s=8.0)", "has no comment"),
        ("MASK = (1 << 64) - 1", "has no comment"),
        ("class A:\n    SIZE = 3", "has no comment"),
        ("# Another line's, which was measured on some machine.\n\nWAIT_S = 3", "has no comment"),
        ("A = 'x'  # a text that was measured on some machine\nWAIT_S = 3", "has no comment"),
        ("WAIT_S = 3  # as measured", "does not tell both"),
        ("WAIT_S = 3  # between two looks at the queue of messages", "does not tell its source"),
        ("WAIT_S = 3  # between two looks at the queue; chosen: so", "does not tell its source"),
        (
            "WAIT_S = 3  # between two looks at a queue, see docs/no-such-page.md",
            "docs/no-such-page.md",
        ),
    ],
)
def test_a_number_that_nobody_can_account_for_is_found(source: str, said: str) -> None:
    (found,) = complaints(source)
    assert said in found


@pytest.mark.parametrize(
    "source",
    [
        "WAIT_S = 3  # between two looks at the queue; chosen: nobody sees a lag of 3 s",
        "# Between two looks at the queue, as measured\n# on one core.\nWAIT_S = 3",
        "SIZES = {\n    'a': 1,  # of a block, in tokens: vLLM's default\n}",
        "Share = Annotated[float, Meta(ge=0, le=1)]",
        "FIRST = SIZES[0]",
        "NAME = 'x'",
        "ON = True",
        "class A:\n    size: int = 3",
    ],
)
def test_a_number_with_its_role_and_source_passes(source: str) -> None:
    assert complaints(source) == []


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
class TestEachTestModule:
    def test_it_takes_nothing_from_another_test_module(self, path: Path) -> None:
        """What several share lies in a module beside them, in a conftest or in wisp.testing."""
        taken = [
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
            if any(part.startswith("test_") for part in node.module.split("."))
        ]
        assert not taken

    def test_it_does_not_spin(self, path: Path) -> None:
        """A loop that does nothing but ask takes the core from what it asks for."""
        assert not [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.While) and _does_nothing(node.body)
        ]

    def test_it_says_why_it_looks_at_what_is_private(self, path: Path) -> None:
        source = path.read_text()
        explained = comments(source)
        unexplained = [
            f"{node.lineno}: {ast.unparse(node)}"
            for statement in ast.walk(ast.parse(source))
            if isinstance(statement, ast.stmt)
            for node in _private(statement)
            if not explained.keys() & {node.lineno, statement.lineno - 1}
        ]
        assert not unexplained


def _does_nothing(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(node, ast.Pass | ast.Continue)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in body
    )


def _private(node: ast.AST) -> Iterator[ast.Attribute]:
    """What somebody else's private attributes a statement names, those within it left out."""
    public = {"_fields", "_replace", "_asdict", "_make"}  # of a NamedTuple
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            continue
        if isinstance(child, ast.Attribute) and re.match(r"_[a-z]", child.attr):
            own = isinstance(child.value, ast.Name) and child.value.id in ("self", "cls")
            if not own and child.attr not in public:
                yield child
        yield from _private(child)


# Where tasks are begun whose outcome is awaited by whoever began them.
AWAITED = {
    "edge/link.py",
    "edge/main.py",
    "engine/client.py",
    "launch.py",
    "openai/answers.py",
    "openai/respond.py",
    "openai/scoring.py",
    "server/servicer.py",
}


def test_a_task_that_nobody_awaits_is_begun_where_its_failure_is_heard_of() -> None:
    """By wisp/tasks.py: an exception in any other would be lost, and others would wait for ever."""
    found = {
        path.relative_to(WISP).as_posix()
        for path in WISP.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future")
    }
    assert found == AWAITED | {"tasks.py"}


def test_there_is_one_virtual_clock() -> None:
    clocks = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for room in ("wisp", "benchmarks", "tests")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and "clock" in node.name.lower()
    ]
    assert clocks == ["wisp/testing/clock.py: VirtualClock"]


def test_a_public_class_has_a_name_of_its_own() -> None:
    where: dict[str, list[str]] = {}
    for path in sorted(WISP.rglob("*.py")):
        if GENERATED not in path.parents:
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    where.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


def test_a_module_has_a_name_of_its_own() -> None:
    names = [path.name for path in WISP.rglob("*.py") if GENERATED not in path.parents]
    allowed = {"__init__.py", "base.py", "main.py"}
    assert {name for name in names if names.count(name) > 1} <= allowed
