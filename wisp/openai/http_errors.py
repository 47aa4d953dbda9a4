"""The HTTP front's one table: what each of WISP's errors is for a client of the OpenAI API."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from wisp import errors

log = logging.getLogger(__name__)


class Code(NamedTuple):
    status: int
    type: str
    code: str | None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Of every answer that is an error."""

    error: ErrorDetail


# For the OpenAPI document: every route may answer so.
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is refused.", "model": ErrorBody},
    "5XX": {"description": "It cannot be answered now.", "model": ErrorBody},
}
# What each error is over HTTP: the nearest class in its ancestry decides. Types and codes are those
# of the OpenAI API as far as it has one.
TABLE: dict[type[errors.WispError], Code] = {
    errors.BadRequest: Code(400, "invalid_request_error", "invalid_value"),
    errors.ModelNotFound: Code(404, "invalid_request_error", "model_not_found"),
    errors.PromptTooLong: Code(400, "invalid_request_error", "context_length_exceeded"),
    errors.ProtocolError: Code(400, "invalid_request_error", "protocol_error"),
    errors.HandshakeError: Code(503, "server_error", "handshake_failed"),
    errors.NotAuthenticated: Code(401, "invalid_request_error", "invalid_api_key"),
    errors.Forbidden: Code(403, "invalid_request_error", "insufficient_permissions"),
    errors.Superseded: Code(409, "invalid_request_error", "superseded"),
    errors.Overloaded: Code(429, "rate_limit_error", "rate_limit_exceeded"),
    errors.Shed: Code(429, "rate_limit_error", "rate_limit_exceeded"),
    errors.Unavailable: Code(503, "server_error", "service_unavailable"),
    errors.InternalError: Code(500, "server_error", "internal_error"),
    errors.ConfigError: Code(500, "server_error", "internal_error"),
    errors.WispError: Code(500, "server_error", "internal_error"),
}
# The codes of what starlette itself raises, and of what the reading of a body adds, by status (the
# standard RFC 9110).
HTTP_CODES = {
    400: "invalid_json",
    404: "unknown_url",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
}
# What a refusal with 429 or 503 that names no time of its own asks its client to wait. Chosen: most
# sessions are over, and most restarts begun, within seconds.
RETRY_AFTER_S = 1.0


class RequestError(errors.BadRequest):
    """A field at fault, with OpenAI's finer code for what is wrong with it."""

    def __init__(self, message: str, param: str | None, code: str) -> None:
        super().__init__(message, param)
        self.code = code


def code_of(error: errors.WispError) -> Code:
    code = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    return code._replace(code=error.code) if isinstance(error, RequestError) else code


def error_body(error: errors.WispError) -> dict[str, Any]:
    code = code_of(error)
    return _body(str(error), code.type, getattr(error, "param", None), code.code)


def error_response(error: errors.WispError) -> JSONResponse:
    status = code_of(error).status
    headers: dict[str, str] = {}
    if status in (429, 503):
        wait_s = max(0.0, getattr(error, "retry_after_s", RETRY_AFTER_S))
        # The header knows whole seconds only; OpenAI's clients prefer the finer one.
        headers["retry-after"] = str(math.ceil(wait_s))
        headers["retry-after-ms"] = str(math.ceil(wait_s * 1000))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status, headers)


def _body(message: str, type_: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


async def _wisp_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.WispError)
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        message = f"There is no {request.method} {request.url.path} here."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{request.url.path} does not answer {request.method}: use {allowed}."
    else:
        message = error.detail
    body = _body(message, "invalid_request_error", None, HTTP_CODES.get(error.status_code))
    return JSONResponse(body, error.status_code, error.headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(_first(error.errors()))


async def _invalid_as_chat(_: Request, error: Exception) -> Response:
    """A request that is a chat in another form, and not a valid one."""
    assert isinstance(error, ValidationError)
    details = error.errors(include_url=False)
    return error_response(_first([{**d, "loc": ("body", *d["loc"])} for d in details]))


def _first(details: Sequence[Any]) -> RequestError:
    """The first field at fault, in OpenAI's words."""
    # An unknown name comes first: it is often the misspelt name of the one that is missing.
    detail = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
    context = detail.get("ctx", {})
    _, *location = detail["loc"]  # after whether it is of the body, the path or the query
    param = context.get("param") or _path(location)
    if param is None and detail["type"] != "refused":
        return RequestError("The body must be a JSON object.", None, "invalid_type")
    if detail["type"] == "extra_forbidden":
        return RequestError(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if detail["type"] == "unsupported":
        message = f"'{param}' is not supported here: leave it out."
        return RequestError(message, param, "unsupported_parameter")
    if detail["type"] == "missing":
        message = f"Missing required parameter: '{param}'."
        return RequestError(message, param, "missing_required_parameter")
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    if param is not None:
        message = f"Invalid value for '{param}': {message}"
    code = "invalid_type" if detail["type"].endswith("_type") else "invalid_value"
    return RequestError(message + ".", param, context.get("code", code))


def _path(location: Sequence[int | str]) -> str | None:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".") or None


async def _unexpected(_: Request, __: Exception) -> Response:
    # starlette raises the exception again behind this answer, so the HTTP server logs it
    return error_response(errors.InternalError("The server failed; its log says why."))


HANDLERS: dict[Any, Any] = {
    errors.WispError: _wisp_error,
    HTTPException: _http_error,
    RequestValidationError: _invalid,
    ValidationError: _invalid_as_chat,
    Exception: _unexpected,
}
