"""How an edge knows its server, and shows who it is itself."""

from __future__ import annotations

import logging

import grpc

from wisp.config import EdgeConfig, EdgeTls
from wisp.errors import ConfigError
from wisp.tls import WatchedFiles, check_plain_text, host_of, is_loopback, system_roots

log = logging.getLogger(__name__)

Metadata = tuple[tuple[str, str], ...]


class Security:
    """Without settings: plain text on this machine, and no key.

    Plain text goes to this machine alone, unless `insecure` asks for more. Certificates are asked
    for everywhere once any are named.
    """

    def __init__(self, config: EdgeConfig | None = None) -> None:
        """Raises ConfigError for a file that cannot be used."""
        tls = config.tls if config else EdgeTls()
        self._has_tls = bool(tls.ca or tls.cert)
        self._insecure = bool(config and config.insecure)
        self._files = WatchedFiles(tls.ca, tls.key, tls.cert)
        self._key_file = WatchedFiles(config.key_file) if config and config.key_file else None
        self._metadata = self._read_key()

    def credentials(self, address: str) -> grpc.ChannelCredentials | None:
        """None: plain text."""
        host = host_of(address)
        if not self._has_tls and (self._insecure or is_loopback(host)):
            check_plain_text([host], False, self._insecure, "the connection to")
            return None
        ca, key, cert = self._files.contents
        return grpc.ssl_channel_credentials(ca or system_roots(), key, cert)

    def metadata(self) -> Metadata:
        """Of each call: the edge's key."""
        return self._metadata

    def changed(self) -> bool:
        """Whether connections have to be made anew; a new key goes with the next call."""
        if self._key_file and self._key_file.changed():
            try:
                self._metadata = self._read_key()
            except ConfigError as error:  # whoever replaces it is not done yet
                log.warning("the key stays as it was: %s", error)
        return self._files.changed()

    def _read_key(self) -> Metadata:
        if self._key_file is None:
            return ()
        (content,) = self._key_file.contents
        key = (content or b"").decode("ascii", errors="replace").strip()
        if not key or not key.isprintable() or "\ufffd" in key or " " in key:
            raise ConfigError("the key file must hold one key, as `wisp keys add` printed it")
        return (("authorization", f"Bearer {key}"),)
