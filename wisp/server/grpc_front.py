"""The listening gRPC server: its options, its certificate, and what it serves."""

from __future__ import annotations

import grpc

from wisp.access.gate import Gate
from wisp.config import Listen, ServerTls
from wisp.errors import ConfigError
from wisp.openai.protocol import max_connections
from wisp.padding import Padding
from wisp.server.grpc_services import add_standard_services
from wisp.server.service import Service
from wisp.server.servicer import WispServicer, max_streams
from wisp.server.telemetry import Telemetry
from wisp.tls import WatchedFiles
from wisp.v1 import wisp_pb2_grpc

# When a silent edge is pinged, and how long its answer may take. Chosen: one that is gone without a
# word is found within half a minute, at 3 packets a minute.
_KEEPALIVE_S, _PING_TIMEOUT_S = 20.0, 10.0
# How long an edge may leave verdicts unread that do not fit gRPC's buffers. Chosen: as over HTTP.
_WRITE_TIMEOUT_S = 30.0
# In `Open` beside its tokens: a structure and its sampling. Chosen: four times the bounds of
# wisp/core/request.py for these.
_MAX_OTHER_BYTES = 2**20


def server_options(
    keepalive_s: float = _KEEPALIVE_S, ping_timeout_s: float = _PING_TIMEOUT_S
) -> list[tuple[str, int]]:
    """gRPC's own options: a silent peer is found, and its session freed."""
    return [
        ("grpc.so_reuseport", 0),  # a port in use is an error, not shared
        ("grpc.keepalive_time_ms", round(1000 * keepalive_s)),
        ("grpc.keepalive_timeout_ms", round(1000 * ping_timeout_s)),
        # A ping has a time-out of its own, 60 s by default, which counts if it is the longer one.
        ("grpc.http2.ping_timeout_ms", round(1000 * ping_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_allowed_incoming_connections", max_connections()),
        ("grpc.max_metadata_size", 16_384),
    ]


def max_open_bytes(max_model_len: int) -> int:
    """Prompt and committed tokens have at most five bytes each; all else in `Open` has bounds."""
    return _MAX_OTHER_BYTES + 10 * max_model_len


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """The files of the certificate are looked at for each new connection."""
    files = WatchedFiles(tls.key, tls.cert, tls.client_ca)

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, cert, client_ca = files.contents
        assert key, "the settings let no certificate through without its key"
        assert cert
        return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        return configuration() if files.changed() else None

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        fetch,  # type: ignore[arg-type]  # None is allowed: nothing has changed
        require_client_authentication=bool(tls.client_ca),
    )


class GrpcFront:
    """The listening server, with the standard health service and reflection."""

    def __init__(
        self,
        service: Service,
        telemetry: Telemetry,
        listen: Listen,
        tls: ServerTls | None = None,
        gate: Gate | None = None,
        write_timeout_s: float = _WRITE_TIMEOUT_S,
        padding: Padding | None = None,
    ) -> None:
        """Raises ConfigError if it cannot listen there."""
        limits = [
            ("grpc.max_concurrent_streams", max_streams(service)),
            ("grpc.max_receive_message_length", max_open_bytes(service.card.max_model_len)),
        ]
        self._server = grpc.aio.server(options=[*server_options(), *limits])
        servicer = WispServicer(service, telemetry, gate or Gate(), write_timeout_s, padding)
        wisp_pb2_grpc.add_WispServicer_to_server(servicer, self._server)  # type: ignore[no-untyped-call]
        add_standard_services(self._server, service.refusal, servicer.caller)
        address = f"{listen.host}:{listen.port}"
        try:
            if tls and tls.cert:
                self.port = self._server.add_secure_port(address, _credentials(tls))
            else:
                self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {address} for gRPC: it is in use or not ours, or the "
                "certificate does not fit its key; choose another with --grpc.port"
            ) from error

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        await self._server.stop(grace_s)
