from __future__ import annotations

from typing import Any

import grpc
import pytest

from wisp import errors
from wisp.status import DETAILS, code_of, error_of, refusal_of

KINDS: list[type[errors.WispError]] = [
    errors.BadRequest,
    errors.ProtocolError,
    errors.ModelNotFound,
    errors.PromptTooLong,
    errors.HandshakeError,
    errors.NotAuthenticated,
    errors.Forbidden,
    errors.Superseded,
    errors.Overloaded,
    errors.Shed,
    errors.Unavailable,
    errors.InternalError,
]
# Those that the gRPC library never makes of itself, by its own list of status codes.
OURS_ALONE = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.DATA_LOSS,
}


def failure(code: grpc.StatusCode, *trailer: Any, details: str = "why") -> grpc.aio.AioRpcError:
    none = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, none, grpc.aio.Metadata(*trailer), details, "")


def over_the_wire(error: errors.WispError) -> errors.WispError:
    refusal = refusal_of(error)
    return error_of(failure(refusal.code, *refusal.trailing_metadata, details=refusal.details))


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_there_and_back(kind: type[errors.WispError]) -> None:
    back = over_the_wire(kind("why"))
    assert type(back) is kind
    assert str(back) == "why"


def test_a_proxy_between_may_break_the_stream_off_behind_the_refusal() -> None:
    """HAProxy does, where the edge is still sending: gRPC then says so instead."""
    refusal = refusal_of(errors.BadRequest("why"))
    reset = "Received RST_STREAM with error code 8"
    back = error_of(failure(refusal.code, *refusal.trailing_metadata, details=reset))
    assert str(back) == "why"


def test_the_field_at_fault_comes_along() -> None:
    back = over_the_wire(errors.PromptTooLong("why", "prompt"))
    assert isinstance(back, errors.PromptTooLong)
    assert back.param == "prompt"


@pytest.mark.parametrize("kind", [errors.Overloaded, errors.Shed])
def test_the_time_to_wait_comes_along(kind: type[errors.Overloaded]) -> None:
    back = over_the_wire(kind("why", 2.5))
    assert isinstance(back, kind)
    assert back.retry_after_s == 2.5


def test_a_long_sentence_stays_within_what_grpc_takes_as_metadata() -> None:
    refusal = refusal_of(errors.BadRequest("é" * 100_000, "x" * 100_000))
    num_bytes = 3 * len(refusal.details.encode()) + sum(
        2 * len(value) for _, value in refusal.trailing_metadata
    )
    assert num_bytes < 8 * 1024
    assert type(over_the_wire(errors.BadRequest("é" * 100_000))) is errors.BadRequest


@pytest.mark.parametrize("code", sorted(set(grpc.StatusCode) - OURS_ALONE, key=str))
def test_a_code_of_grpc_itself_is_a_lost_server(code: grpc.StatusCode) -> None:
    assert type(error_of(failure(code))) is errors.Unavailable


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if code_of(kind("why")) in OURS_ALONE], ids=str
)
def test_a_code_that_grpc_never_makes_is_a_refusal_without_the_mark(
    kind: type[errors.WispError],
) -> None:
    assert type(error_of(failure(code_of(kind("why"))))) is not errors.Unavailable


@pytest.mark.parametrize("details", [b"\xff\xff", b""])
def test_details_of_somebody_else_are_no_mark(details: bytes) -> None:
    lost = failure(grpc.StatusCode.INTERNAL, (DETAILS, details))
    assert type(error_of(lost)) is errors.Unavailable
