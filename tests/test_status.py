from __future__ import annotations

from typing import Any

import grpc
import pytest

from wisp import errors
from wisp.status import RETRY_AFTER, code_of, error_of

KINDS: list[type[errors.WispError]] = [
    errors.BadRequest,
    errors.ModelNotFound,
    errors.PromptTooLong,
    errors.HandshakeError,
    errors.Overloaded,
    errors.Unavailable,
    errors.InternalError,
]


def failure(code: grpc.StatusCode, *trailer: Any) -> grpc.aio.AioRpcError:
    none = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, none, grpc.aio.Metadata(*trailer), "why", "")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_there_and_back(kind: type[errors.WispError]) -> None:
    back = error_of(failure(code_of(kind("why"))))
    assert type(back) is kind
    assert str(back) == "why"


def test_the_time_to_wait_comes_along() -> None:
    refused = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, ("other", "x"), (RETRY_AFTER, "2.5"))
    back = error_of(refused)
    assert isinstance(back, errors.Overloaded)
    assert back.retry_after_s == 2.5


def test_a_session_that_was_shed_finds_the_server_overloaded() -> None:
    assert type(error_of(failure(code_of(errors.Shed("why"))))) is errors.Overloaded


def test_codes_of_grpc_itself_are_a_lost_server() -> None:
    for code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN):
        assert type(error_of(failure(code))) is errors.Unavailable
