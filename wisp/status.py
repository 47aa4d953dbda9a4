"""What each error is over gRPC, and back: one table for both ends.

A refusal of ours carries a mark, the `ErrorInfo` of Google's rich error model with our domain. Most
codes are made by gRPC itself, too, when a connection breaks: without the mark they are a lost one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from wisp import errors
from wisp.errors import WispError

DOMAIN = "wisp.v1"  # of the reasons below; whoever else refuses has another one
DETAILS = "grpc-status-details-bin"  # where gRPC's rich error model has its details

# The longest sentence that goes over the wire, in bytes. Chosen: with its details it is well within
# the 8 KiB of metadata that gRPC takes by default, also if every byte of it has to be escaped.
_MAX_BYTES = 1024

_CODES: dict[type[WispError], grpc.StatusCode] = {
    errors.BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ProtocolError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.PromptTooLong: grpc.StatusCode.OUT_OF_RANGE,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.HandshakeError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Superseded: grpc.StatusCode.ABORTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Shed: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}
_ERRORS = {error.__name__: error for error in _CODES}
# The codes that gRPC never makes of itself: they are a refusal without our mark, too, as a proxy or
# another release of the server may send it.
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.BadRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.PromptTooLong,
    grpc.StatusCode.NOT_FOUND: errors.ModelNotFound,
    grpc.StatusCode.FAILED_PRECONDITION: errors.HandshakeError,
    grpc.StatusCode.ABORTED: errors.Superseded,
}


class Refusal(NamedTuple):
    """What ends a call: the arguments of `ServicerContext.abort`."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def code_of(error: WispError) -> grpc.StatusCode:
    return next(_CODES[kind] for kind in _kinds(error) if kind in _CODES)


def refusal_of(error: WispError) -> Refusal:
    """The code, the sentence, and both again with their details under our mark."""
    code = code_of(error)
    sentence = str(error).encode()[:_MAX_BYTES].decode(errors="ignore")
    reason = next(kind.__name__ for kind in _kinds(error) if kind in _CODES)
    info = ErrorInfo(reason=reason, domain=DOMAIN)
    if param := getattr(error, "param", None):
        info.metadata["param"] = str(param)[:_MAX_BYTES]
    status = Status(code=code.value[0], message=sentence, details=[_packed(info)])
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        retry = RetryInfo()
        retry.retry_delay.FromNanoseconds(round(retry_after_s * 1e9))
        status.details.append(_packed(retry))
    return Refusal(code, sentence, ((DETAILS, status.SerializeToString()),))


def error_of(failure: grpc.aio.AioRpcError) -> WispError:
    """What the other end meant. What gRPC itself made of a broken connection is Unavailable."""
    code = failure.code()
    info, retry_after_s, message = _details(failure)
    if info is None:
        unmarked: type[WispError] = _REFUSALS.get(code, errors.Unavailable)
        return unmarked(failure.details() or code.name)
    kind: type[WispError] = _ERRORS.get(info.reason) or _REFUSALS.get(code, errors.InternalError)
    if issubclass(kind, errors.BadRequest):
        return kind(message, info.metadata.get("param"))
    if issubclass(kind, errors.Overloaded) and retry_after_s is not None:
        return kind(message, retry_after_s)
    return kind(message)


def is_refusal(failure: grpc.aio.AioRpcError) -> bool:
    """Whether it carries our mark."""
    return _details(failure)[0] is not None


def _details(failure: grpc.aio.AioRpcError) -> tuple[ErrorInfo | None, float | None, str]:
    """With the sentence: a proxy between may end the stream so that gRPC puts its own there."""
    info: ErrorInfo | None = None
    retry_after_s: float | None = None
    sentence = failure.details() or failure.code().name
    # Metadata is a mapping by key, and iterates over its pairs.
    trailer: Iterable[Any] = failure.trailing_metadata() or ()
    for key, value in trailer:
        if key != DETAILS or not isinstance(value, bytes):
            continue
        try:
            status = Status.FromString(value)
        except DecodeError:  # of somebody else's making
            continue
        for packed in status.details:
            told, retry = ErrorInfo(), RetryInfo()
            if packed.Unpack(told) and told.domain == DOMAIN:
                info, sentence = told, status.message
            elif packed.Unpack(retry):
                retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return info, retry_after_s, sentence


def _packed(message: ErrorInfo | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _kinds(error: WispError) -> list[type[WispError]]:
    """Its class and those above it, the nearest first; a WispError of none is our own fault."""
    above = [kind for kind in type(error).__mro__ if issubclass(kind, WispError)]
    return [*above, errors.InternalError]
