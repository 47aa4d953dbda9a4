"""Questions and answers cut from the corpus, so that the pair has seen its chat template."""

from __future__ import annotations

import ast
import inspect
import random
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from training.corpus import Document

MAX_SOURCE_CHARS = 2400
MAX_PROSE_CHARS = 1200
MIN_ANSWER_CHARS = 60

SOURCE_QUESTIONS = (
    "Write `{}`.", "Show the source of {}", "Show me the code of `{}`.", "Implement {} in Python.",
    "How is {} implemented?", "Write the function {}.",
)  # fmt: skip
CLASS_QUESTIONS = (
    "Write the class `{}`.",
    "Show the source of class {}",
    "Implement the class {}.",
)
DOCSTRING_QUESTIONS = (
    "Document {}",
    "What does `{}` do?",
    "Describe {}.",
    "Write a docstring for {}.",
)
MODULE_QUESTIONS = (
    "Explain the module {}",
    "What is the module `{}` for?",
    "Introduce the {} module.",
)
SECTION_QUESTIONS = ("Explain: {}", "Tell me about {}.", "Write the documentation of {}.", "{}?")

_SECTION = re.compile(r"^(?P<title>\S[^\n]{2,79})\n(?P<line>[=\-~^*\"']{3,})$", re.MULTILINE)
_MODULE = re.compile(r"^\.\. module:: (?P<name>[\w.]+)", re.MULTILINE)
_ENTRY = re.compile(
    r"^\.\. (?:c:)?(?:function|class|data|exception|method|classmethod|staticmethod|attribute"
    r"|decorator|coroutinefunction|macro|type)::[ ]+(?P<signature>[^\n]+)\n"
    r"(?P<body>(?:[ \t]+[^\n]*\n|\n)+)",
    re.MULTILINE,
)
_OPTION = re.compile(
    r"^:(?:module|noindex|async|type|value|final|canonical)\b[^\n]*\n?", re.MULTILINE
)
_ROLE = re.compile(r":[\w:]+:`[!~]?([^`<]+?)(?:\s*<[^`]*>)?`")


@dataclass(frozen=True)
class Exchange:
    question: str
    answer: str


def exchanges(document: Document, rng: random.Random) -> list[Exchange]:
    found = _from_source(document, rng) if document.is_source else _from_rst(document, rng)
    return [exchange for exchange in found if len(exchange.answer) >= MIN_ANSWER_CHARS]


def _from_source(document: Document, rng: random.Random) -> Iterator[Exchange]:
    parts = PurePosixPath(document.path).with_suffix("").parts[1:]
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"
    try:
        tree = ast.parse(document.text)
    except SyntaxError:
        return
    if doc := ast.get_docstring(tree):
        yield Exchange(rng.choice(MODULE_QUESTIONS).format(module), _shorten(doc))
    yield from _from_nodes(tree.body, module, document.text.splitlines(), rng)


def _from_nodes(
    nodes: list[ast.stmt], prefix: str, lines: list[str], rng: random.Random
) -> Iterator[Exchange]:
    for node in nodes:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        name = f"{prefix}.{node.name}"
        questions: tuple[str, ...] = SOURCE_QUESTIONS
        if isinstance(node, ast.ClassDef):
            questions = CLASS_QUESTIONS
            yield from _from_nodes(node.body, name, lines, rng)
        if source := _source(node, lines):
            yield Exchange(rng.choice(questions).format(name), f"```python\n{source}\n```")
        if doc := ast.get_docstring(node):
            yield Exchange(rng.choice(DOCSTRING_QUESTIONS).format(name), _shorten(doc))


def _source(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, lines: list[str]) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    source = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])).strip()
    return source if len(source) <= MAX_SOURCE_CHARS else ""


def _from_rst(document: Document, rng: random.Random) -> Iterator[Exchange]:
    text = document.text
    titles = list(_SECTION.finditer(text))
    ends = [*(title.start() for title in titles[1:]), len(text)]
    for title, end in zip(titles, ends, strict=False):
        body = _prose(text[title.end() : end])
        if module := _MODULE.search(text, title.end(), end):
            yield Exchange(rng.choice(MODULE_QUESTIONS).format(module["name"]), body)
        else:
            yield Exchange(rng.choice(SECTION_QUESTIONS).format(_plain(title["title"])), body)
    module = _MODULE.search(text)
    for entry in _ENTRY.finditer(text):
        name = entry["signature"].split("(")[0].strip().split(" ")[-1]
        if module and "." not in name:
            name = f"{module['name']}.{name}"
        body = _OPTION.sub("", inspect.cleandoc(entry["body"])).lstrip("\n")
        answer = f"{entry['signature'].rstrip(chr(92)).strip()}\n\n{body}"
        yield Exchange(rng.choice(DOCSTRING_QUESTIONS).format(name), _shorten(answer))


def _prose(text: str) -> str:
    """Drop the leading directives of a section (module, synopsis, index entries) and its rulers."""
    blocks = re.split(r"\n{2,}", text.strip("\n"))
    while blocks and re.match(r"(\.\. |\s|-{4,}|\*\*Source code|:)", blocks[0]):
        blocks.pop(0)
    return _shorten("\n\n".join(blocks))


def _plain(title: str) -> str:
    return _ROLE.sub(r"\1", title).replace("``", "`").strip()


def _shorten(text: str) -> str:
    """At most MAX_PROSE_CHARS, cut between paragraphs, or else between lines."""
    text = inspect.cleandoc(text).strip()
    if len(text) <= MAX_PROSE_CHARS:
        return text
    head = text[:MAX_PROSE_CHARS]
    for separator in ("\n\n", "\n"):
        if head.rfind(separator) > MIN_ANSWER_CHARS:
            return head[: head.rfind(separator)].rstrip(":\n ")
    return ""
