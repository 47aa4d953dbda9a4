"""What can go wrong, once for the whole project.

    WispError
    ├── BadRequest             the caller can mend it; nothing was started
    │   ├── ModelNotFound      the request names a model that is not served here
    │   ├── PromptTooLong      prompt and answer do not fit the model's context
    │   └── ProtocolError      a draft stream broke the rules; ends that session alone
    ├── HandshakeError         edge and server cannot work together (tokenizer, protocol)
    ├── NotAuthenticated       the caller does not say who it is, or nobody knows it
    ├── Forbidden              the caller is known, but may not do this
    ├── Superseded             the generation goes on elsewhere: its edge has come back
    ├── Overloaded             no room now; carries retry_after_s
    │   └── Shed               a running session had to make room for a higher priority
    ├── Unavailable            draining, engine lost, server out of reach
    ├── InternalError          our own fault
    └── ConfigError            a process cannot start as it is configured

Every message is one sentence that says what to do. Code that detects an error raises one of these;
each front (gRPC, HTTP, command line) turns them into its own codes in one table.
"""

import logging

# Which extra of this package brings a library that it can do without.
_EXTRAS = {
    "torch": "torch",
    "safetensors": "torch",
    "openai": "demo",
    "vllm": "vllm",
    "opentelemetry": "otel",
}


class WispError(Exception):
    """The root of every error that WISP raises on purpose."""


class BadRequest(WispError):
    """The request is wrong; `param` names the field at fault where there is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ModelNotFound(BadRequest):
    """The request names a model that is not served here."""


class PromptTooLong(BadRequest):
    """The prompt and the requested answer do not fit the model's context."""


class ProtocolError(BadRequest):
    """A draft stream broke its rules (gap, rewrite, overrun, unknown token)."""


class HandshakeError(WispError):
    """Edge and server cannot work together: tokenizer or protocol differ."""


class NotAuthenticated(WispError):
    """No key or certificate, or one that nobody knows."""


class Forbidden(WispError):
    """Whoever asks is known, but may not do this."""


class Superseded(WispError):
    """Another stream has resumed this generation, and goes on with it."""


class Overloaded(WispError):
    """No room for another session now."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Shed(Overloaded):
    """A running session had to make room for one of a higher priority."""


class Unavailable(WispError):
    """The service cannot answer: draining, engine lost, or out of reach."""


class InternalError(WispError):
    """A fault of our own; the log has the traceback."""


class ConfigError(WispError):
    """A process cannot start as it is configured."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install for a library that is not there; None: it comes with no extra."""
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    return extra and f"'{error.name}' is not installed: pip install 'wisp-serving[{extra}]'"


def why_not_started(what: str, error: Exception, log: logging.Logger) -> str:
    """The sentence about what cannot start, to be asked for where the error is handled; the log has
    the traceback of what nobody foresaw."""
    if isinstance(error, WispError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (sentence := missing_extra(error)):
        return sentence
    log.exception("%s cannot start", what)
    return f"{what} cannot start: {error}"
