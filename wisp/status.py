"""The gRPC code of each error, and back: one table for both ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from wisp.errors import (
    BadRequest,
    HandshakeError,
    InternalError,
    ModelNotFound,
    Overloaded,
    PromptTooLong,
    ProtocolError,
    Shed,
    Unavailable,
    WispError,
)

RETRY_AFTER = "retry-after-s"  # trailing metadata beside RESOURCE_EXHAUSTED

_CODES: dict[type[WispError], grpc.StatusCode] = {
    BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ProtocolError: grpc.StatusCode.INVALID_ARGUMENT,
    PromptTooLong: grpc.StatusCode.OUT_OF_RANGE,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    HandshakeError: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Shed: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    InternalError: grpc.StatusCode.INTERNAL,
}
_ERRORS: dict[grpc.StatusCode, type[WispError]] = {
    code: error for error, code in _CODES.items() if error not in (ProtocolError, Shed)
}


def code_of(error: WispError) -> grpc.StatusCode:
    return _CODES.get(type(error), grpc.StatusCode.INTERNAL)


def error_of(failure: grpc.aio.AioRpcError) -> WispError:
    """What the other end meant; codes that gRPC itself gives count as Unavailable."""
    kind = _ERRORS.get(failure.code(), Unavailable)
    message = failure.details() or failure.code().name
    if kind is Overloaded:
        # Metadata is a mapping by key, and iterates over its pairs: dict() of it as it is fails.
        trailer: Iterable[Any] = failure.trailing_metadata() or ()
        found = [float(value) for key, value in trailer if key == RETRY_AFTER]
        return Overloaded(message, found[0] if found else 1.0)
    return kind(message)
