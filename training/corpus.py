"""The corpus: the source of Python's standard library and its documentation's reStructuredText.

A document is held out as a whole file, chosen by a hash of its path, so that every run on every
machine holds out the same files and no held-out text has been seen in training.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_PERCENT = 4

EXCLUDED_FOLDERS = {
    "__pycache__", "idle_test", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test",
    "tests",
}  # fmt: skip
# Generated character tables and data in the form of modules: bytes without language.
EXCLUDED_PREFIXES = (
    "encodings/cp",
    "encodings/iso",
    "encodings/mac",
    "encodings/koi8",
    "_sysconfig",
)
EXCLUDED_FILES = {"html/entities.py", "msilib/schema.py", "msilib/sequence.py", "msilib/text.py"}


@dataclass(frozen=True)
class Document:
    path: str
    """Relative to the corpus, e.g. `Lib/textwrap.py` or `Doc/library/textwrap.rst`."""
    text: str

    @property
    def held_out(self) -> bool:
        digest = hashlib.sha256(self.path.encode()).digest()
        return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT

    @property
    def is_source(self) -> bool:
        return self.path.endswith(".py")


def read_documents(docs: Path, lib: Path | None = None) -> list[Document]:
    """Every document in the order of its path; `docs` is the folder of the `*.rst.txt` sources."""
    lib = lib or Path(sysconfig.get_paths()["stdlib"])
    documents = [*_read_lib(lib), *_read_docs(docs)]
    return sorted(documents, key=lambda document: document.path)


def _read_lib(lib: Path) -> Iterator[Document]:
    for file in lib.rglob("*.py"):
        name = file.relative_to(lib).as_posix()
        if EXCLUDED_FOLDERS & set(name.split("/")) or name in EXCLUDED_FILES:
            continue
        if name.startswith(EXCLUDED_PREFIXES):
            continue
        yield from _document(file, f"Lib/{name}")


def _read_docs(docs: Path) -> Iterator[Document]:
    files = list(docs.rglob("*.rst.txt"))
    if not files:
        raise FileNotFoundError(f"no *.rst.txt below {docs}")
    for file in files:
        yield from _document(file, f"Doc/{file.relative_to(docs).as_posix().removesuffix('.txt')}")


def _document(file: Path, path: str) -> Iterator[Document]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    if text.strip():
        yield Document(path, text)
