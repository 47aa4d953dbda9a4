"""Estimators on disk, a file per target, GPU and engine: a restarted server starts warm."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import msgspec
from msgspec import Struct

from wisp.estimator.step_time import State, StepTimeEstimator
from wisp.files import write_whole

log = logging.getLogger(__name__)

# Of the file. Raise it when a term of the fit, its unit or a field of the state changes: files of
# another number are ignored.
_FORMAT = 4


class Key(Struct, frozen=True, kw_only=True):
    """What step times belong to: on anything else they are other ones."""

    model: str
    gpu: str  # its name and number, as "NVIDIA H200 x2"; or the processor's
    engine: str  # with its version, as "vllm 0.26.0"


class _File(Struct, frozen=True, kw_only=True):
    format: int
    key: Key
    state: State


def path_of(folder: Path, key: Key) -> Path:
    """A readable name, and a digest that keeps apart what reads alike."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", f"{key.model} {key.gpu} {key.engine}").strip("-.")
    digest = hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:12]
    return folder / f"steps-{readable[:96]}-{digest}.json"


def save(estimator: StepTimeEstimator, folder: Path, key: Key) -> Path:
    """Atomic: a reader sees the old file or the new one. Raises OSError if neither can be."""
    path = path_of(folder, key)
    content = _File(format=_FORMAT, key=key, state=estimator.state())
    write_whole(path, msgspec.json.encode(content))
    return path


def load(folder: Path, key: Key) -> StepTimeEstimator | None:
    """None if there is no such file, or, with a warning, if it is of no use."""
    path = path_of(folder, key)
    try:
        return _decode(path.read_bytes(), key)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        log.warning("the step times in %s are ignored, the estimator starts cold: %s", path, error)
        return None


def read(path: Path) -> StepTimeEstimator:
    """Whatever target it belongs to. Raises OSError, and ValueError if it is of no use."""
    return StepTimeEstimator.restore(_file(path.read_bytes()).state)


def _decode(content: bytes, key: Key) -> StepTimeEstimator:
    found = _file(content)
    if found.key != key:
        raise ValueError(f"they belong to {found.key}")
    return StepTimeEstimator.restore(found.state)


def _file(content: bytes) -> _File:
    found = msgspec.json.decode(content, type=_File)
    if found.format != _FORMAT:
        raise ValueError(f"format {found.format} where {_FORMAT} is wanted")
    return found
