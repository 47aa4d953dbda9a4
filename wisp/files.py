"""Files that outlive a process: what a reader finds is whole."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace the file, and make its folder if there is none.

    `mode`: who may read it, less what the umask takes away.

    A reader, and a power cut, sees the old content or the new one. Raises OSError if it cannot be
    written; then the old file is what it was, and no part of the new one is left behind.
    """
    write_together([(path, content, mode)])


def write_together(files: Sequence[tuple[Path, bytes, int]]) -> None:
    """As `write_whole`, of files that belong together: path, content and mode of each.

    None is replaced before all are written, so that a full disk leaves all of them as they were.
    """
    partials: list[Path] = []
    try:
        for path, content, mode in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Others may write it, too.
            partials.append(path.with_name(f".{path.name}.{secrets.token_hex(4)}"))
            _write(partials[-1], content, mode)
        for partial, (path, _, _) in zip(partials, files, strict=True):
            os.replace(partial, path)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def name_temporary_folder() -> None:
    """Python finds it by writing a file there, and so finds none on a full disk; libraries that
    only ask for its name would not be loaded.
    """
    try:
        tempfile.gettempdir()
    except OSError:
        tempfile.tempdir = os.environ.get("TMPDIR", "/tmp")


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
