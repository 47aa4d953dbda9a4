"""Who a call comes from: by its key, its certificate, or its address."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from wisp.access.keys import KeyRecord, Keys, parse
from wisp.access.quota import Quota, Usage
from wisp.errors import ConfigError, Forbidden, NotAuthenticated
from wisp.tls import WatchedFiles

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caller:
    """Whoever asks. `name` is whose fair share it is."""

    name: str
    usage: Usage
    operator: bool = False


def network_of(address: str) -> str:
    """The address; of IPv6 all of its subscriber's, who gets no fewer than 2^64 (RFC 6177)."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, 64), strict=False))


# Of the HTTP request that is being answered.
CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


class Gate:
    """Without a file of keys everybody is let in, and known by the address."""

    def __init__(
        self, path: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises ConfigError for a file that holds no keys."""
        self._path = path
        self._clock = clock
        self._files = WatchedFiles(path) if path else None
        self._keys = self._parse() if path else None
        self._usage: dict[str, Usage] = {}
        self._nobodys = Quota()

    @property
    def asks(self) -> bool:
        return self._keys is not None

    def caller(
        self, authorization: str | None, certificate: str | None = None, address: str = ""
    ) -> Caller:
        """`authorization`: the header; `certificate`: the common name in one that was verified.

        Raises NotAuthenticated, and Forbidden for a certificate whose name was revoked.
        """
        if self._keys is None:
            name = certificate or network_of(address)
            return Caller(name, Usage(self._nobodys, self._clock), operator=False)
        if certificate is not None and not authorization:
            record = self._keys.by_name.get(certificate, KeyRecord(name=certificate))
            if record.revoked:
                raise Forbidden(f"the certificate of '{certificate}' was revoked")
            return self._known(record)
        if not authorization:
            raise NotAuthenticated(
                "You didn't provide an API key: send it as 'Authorization: Bearer YOUR_KEY'."
            )
        kind, _, key = authorization.partition(" ")
        found = self._keys.find(key.strip()) if kind.lower() == "bearer" else None
        if found is None:
            raise NotAuthenticated("Incorrect API key provided: ask this server's operator.")
        return self._known(found)

    def holds(self, caller: Caller) -> bool:
        """Whether it would be let in still."""
        if self._keys is None:
            return True
        record = self._keys.by_name.get(caller.name)
        return record is None or not record.revoked

    def reload(self) -> bool:
        """Read the file again if it has changed; whether it was.

        An empty one is what a full disk leaves of it: nobody is shut out by that.
        """
        if self._files is None or not self._files.changed():
            return False
        if not any(self._files.contents):
            log.warning("the keys stay as they were: %s is empty", self._path)
            return False
        try:
            self._keys = self._parse()
        except ConfigError as error:
            log.warning("the keys stay as they were: %s", error)
            return False
        for name, usage in self._usage.items():
            record = self._keys.by_name.get(name)
            usage.limit(record.quota if record else self._nobodys)
        return True

    def _known(self, record: KeyRecord) -> Caller:
        usage = self._usage.get(record.name)
        if usage is None:  # as many as there are keys and certificates of ours
            usage = self._usage[record.name] = Usage(record.quota, self._clock)
        return Caller(record.name, usage, record.operator)

    def _parse(self) -> Keys:
        assert self._files
        assert self._path
        (content,) = self._files.contents
        return parse(content or b"", self._path)
