"""Files that outlive a process: what a reader finds is whole."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace the file, and make its folder if there is none.

    `mode`: who may read it, less what the umask takes away.

    A reader, and a power cut, sees the old content or the new one. Raises OSError if it cannot be
    written; then the old file is what it was, and no part of the new one is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # others may write it, too
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
