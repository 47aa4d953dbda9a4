"""Who speaks in plain text, and certificates that are read again when their files change."""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Sequence
from pathlib import Path

from wisp.errors import ConfigError

log = logging.getLogger(__name__)

# Between two looks at the files of certificates and keys. Chosen: nobody waits for a renewal or a
# revocation longer than it takes to look up from the keyboard.
RELOAD_S = 2.0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address, or be meant by it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """Of `host:port`."""
    return address.rpartition(":")[0] or address


def check_plain_text(hosts: Sequence[str], has_tls: bool, insecure: bool, what: str) -> None:
    """Raises ConfigError for plain text that leaves this machine, unless it was asked for."""
    open_ = [host for host in hosts if not is_loopback(host)]
    if has_tls or not open_:
        return
    if not insecure:
        raise ConfigError(
            f"{what} {open_[0]} would be plain text, for everybody on the way to read: give "
            "certificates (`wisp certs` makes them) or say --insecure"
        )
    log.warning("%s %s is plain text: everybody on the way can read and change it", what, open_[0])


class WatchedFiles:
    """Files that belong together, as they are now. A missing one is None."""

    def __init__(self, *paths: Path | None) -> None:
        """Raises ConfigError for one that cannot be read."""
        self._paths = paths
        self._seen = self._state()
        try:
            self.contents = self._read()
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error

    def changed(self) -> bool:
        """Whether there is something new since the last time that this was asked.

        What cannot be read is as it was: whoever replaces files is not done yet.
        """
        try:
            state = self._state()
            if state == self._seen:
                return False
            self.contents, self._seen = self._read(), state
        except OSError as error:
            log.warning("%s cannot be read: %s", error.filename, error.strerror)
            return False
        log.info("certificates are read again: %s", ", ".join(map(str, filter(None, self._paths))))
        return True

    def _read(self) -> tuple[bytes | None, ...]:
        return tuple(path.read_bytes() if path else None for path in self._paths)

    def _state(self) -> list[tuple[int, int]]:
        found = []
        for path in self._paths:
            if path:
                try:
                    stat = path.stat()
                    found.append((stat.st_mtime_ns, stat.st_ino))
                except OSError:
                    found.append((0, 0))
        return found


def system_roots() -> bytes:
    """The certificates that this machine trusts, as PEM. Raises ConfigError if it has none."""
    context = ssl.create_default_context()
    roots = context.get_ca_certs(binary_form=True)
    if not roots:
        raise ConfigError("this machine trusts no certificates of its own: give --tls.ca a file")
    return "".join(map(ssl.DER_cert_to_PEM_cert, roots)).encode()


class HttpsFiles:
    """The TLS context of an HTTP port; what `reload` finds counts for new connections."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises ConfigError for files that are no certificate and its key."""
        self._paths = cert, key
        self._files = WatchedFiles(cert, key)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            self.context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{cert} and {key} do not belong together: {error}") from error

    def reload(self) -> None:
        if self._files.changed():
            try:
                self.context.load_cert_chain(*self._paths)
            except (OSError, ssl.SSLError) as error:
                log.warning("%s cannot be used yet: %s", self._paths[0], error)


def https_of(cert: Path | None, key: Path | None) -> HttpsFiles | None:
    return HttpsFiles(cert, key) if cert and key else None
