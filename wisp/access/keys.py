"""The file of keys: names, hashes and quotas. The keys themselves are nowhere."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

import msgspec

from wisp.access.quota import Quota
from wisp.errors import ConfigError
from wisp.files import write_whole

# Random bytes of a key. Chosen: 256 bits, which nobody guesses, so that a plain hash of them needs
# no salt and no stretching.
_KEY_BYTES = 32
# The longest key that is looked up. Chosen: ours have 51 characters, and hashing what a client
# sends must cost nothing.
_MAX_KEY = 200
_NAME = re.compile(r"[\w.@-]{1,64}")


class KeyRecord(Quota, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the file. Without `sha256` it is about the edge with a certificate of this name."""

    name: str
    sha256: str | None = None  # of the key, in hex
    operator: bool = False
    revoked: bool = False

    @property
    def quota(self) -> Quota:
        return Quota(**{field: getattr(self, field) for field in Quota.__struct_fields__})


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """What one file says."""

    def __init__(self, records: Iterable[KeyRecord] = ()) -> None:
        self.by_name = {record.name: record for record in records}
        self._by_digest = {r.sha256: r for r in self.by_name.values() if r.sha256}

    def find(self, key: str) -> KeyRecord | None:
        """Whose key it is; None: nobody's, or one that was revoked.

        The time that this takes tells nothing of the keys: what is looked up is a hash of the one
        that was sent.
        """
        if len(key) > _MAX_KEY:
            return None
        sent = digest(key)
        record = self._by_digest.get(sent)
        if record is None or not hmac.compare_digest(record.sha256 or "", sent):
            return None
        return None if record.revoked else record


def parse(content: bytes, path: Path) -> Keys:
    """Raises ConfigError for a file that holds anything else."""
    try:
        records = msgspec.yaml.decode(content, type=list[KeyRecord] | None) or []
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is no file of keys: {error}") from error
    names = [record.name for record in records]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{path} names '{doubled.pop()}' twice")
    return Keys(records)


def read(path: Path) -> Keys:
    """Raises ConfigError; a file that is not there yet holds no keys."""
    try:
        return parse(path.read_bytes(), path)
    except FileNotFoundError:
        return Keys()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def write(path: Path, keys: Keys) -> None:
    """Raises ConfigError if it cannot be; then the file is what it was."""
    records = [msgspec.to_builtins(record) for record in keys.by_name.values()]
    defaults = msgspec.to_builtins(KeyRecord(name=""))
    lines = [{k: v for k, v in each.items() if v != defaults[k]} for each in records]
    try:
        write_whole(path, msgspec.yaml.encode(lines), mode=0o600)
    except OSError as error:
        raise ConfigError(f"{path} stays as it was: {error.strerror}") from error


def add(path: Path, record: KeyRecord) -> str:
    """A new key, which is told once and kept nowhere.

    Raises ConfigError if the name is taken, or the file cannot be written.
    """
    keys = read(path)
    if not _NAME.fullmatch(record.name):
        raise ConfigError(f"'{record.name}' is no name: use up to 64 letters, digits, . _ @ and -")
    if record.name in keys.by_name:
        raise ConfigError(f"there is a key '{record.name}' already: choose another name")
    key = f"sk-wisp-{secrets.token_urlsafe(_KEY_BYTES)}"
    record = msgspec.structs.replace(record, sha256=digest(key))
    write(path, Keys([*keys.by_name.values(), record]))
    return key


def revoke(path: Path, name: str) -> None:
    """The name stays, so that no certificate of this name is let in, and nobody else gets it.

    Raises ConfigError if the file cannot be written: whoever has the key is let in still.
    """
    keys = read(path)
    record = keys.by_name.get(name, KeyRecord(name=name))
    revoked = msgspec.structs.replace(record, sha256=None, revoked=True)
    write(path, Keys((keys.by_name | {name: revoked}).values()))
