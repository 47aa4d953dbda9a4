"""Structured outputs: a grammar is compiled beside the steps, WISP keeps it in step with the text.

vLLM masks the logits with the grammar before the choice is made. A draft is cut at its first token
that the grammar forbids, so that the mask can be filled behind every draft token.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait

from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.request import Request
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features
from vllm.v1.structured_output.utils import choice_as_grammar

from wisp.core.request import Sampling, Structure
from wisp.errors import BadRequest, InternalError, Overloaded

# How long a step waits for a grammar when there is nothing else to do; then messages are read
# again. Chosen: it is less than a step of a large target, so that no message waits longer for it.
_WAIT_S = 0.01
# How long a session waits for its grammar in all. Chosen: a queue of a few that take as long as
# wisp/verifier/vllm/compiling.py lets them.
_MAX_WAIT_S = 30.0


def params_of(structure: Structure) -> StructuredOutputsParams:
    """Raises BadRequest if it is not what it says, or has a feature that xgrammar lacks.

    Whether it can be compiled shows later: that may take long.
    """
    try:
        params = _params_of(structure)
    except (ValueError, TypeError, AttributeError) as error:
        raise _not_valid(error) from error
    params._backend = "xgrammar"
    return params


def _params_of(structure: Structure) -> StructuredOutputsParams:
    """Raises ValueError; TypeError or AttributeError for JSON of another shape."""
    kind, text = structure.kind, structure.text
    if not text.strip():
        raise ValueError("it is empty")
    if "\x00" in text:
        raise ValueError("it holds a NUL character")
    if kind == "choice":
        choices = json.loads(text)
        if not choices:
            raise ValueError("it is empty")
        return StructuredOutputsParams(grammar=choice_as_grammar(choices))
    if kind == "json" and has_xgrammar_unsupported_json_features(json.loads(text)):
        raise ValueError("the schema has features that xgrammar does not support")
    return StructuredOutputsParams(**{kind: text})


def _not_valid(error: object) -> BadRequest:
    return BadRequest(f"the structure of the answer is not valid: {error}")


class Grammars:
    """The grammars of open requests that have a structure."""

    def __init__(self) -> None:
        self._committed: dict[str, list[int]] = {}  # what a new grammar must be told of
        self._begun_s: dict[str, float] = {}  # when one that is not compiled yet was asked for
        self.refused: dict[str, BadRequest | Overloaded] = {}  # by request

    def opened(self, request: Request, committed: Sequence[int]) -> None:
        if request.use_structured_output:
            self._committed[request.request_id] = list(committed)

    def closed(self, request_id: str) -> None:
        self._committed.pop(request_id, None)
        self._begun_s.pop(request_id, None)
        self.refused.pop(request_id, None)

    def ready(self, request: Request) -> bool:
        """False while it is compiled, and from when it is found that it cannot be used."""
        if not request.use_structured_output:
            return True
        request_id, asked = request.request_id, request.structured_output_request
        if request_id in self.refused:
            return False
        if not asked.is_grammar_ready:
            begun_s = self._begun_s.setdefault(request_id, time.monotonic())
            if time.monotonic() - begun_s > _MAX_WAIT_S:
                text = "the structure waits for others to be compiled: try again later"
                self.refused[request_id] = Overloaded(text, _MAX_WAIT_S)
            return False
        if isinstance(asked.grammar, Overloaded):
            self.refused[request_id] = asked.grammar
            return False
        if isinstance(asked.grammar, Exception):
            self.refused[request_id] = _not_valid(asked.grammar)
            return False
        if asked.grammar.slow:
            self.refused[request_id] = _not_valid("it takes too long to tell what may follow")
            return False
        committed = self._committed.pop(request_id, None)
        if committed and not asked.grammar.accept_tokens(request_id, committed):
            self.refused[request_id] = _not_valid("the text to resume does not keep to it")
            return False
        return True


def wait_for_any(requests: Sequence[Request]) -> None:
    """Until the grammar of one of them is compiled, but not long."""
    asked = [request.structured_output_request._grammar for request in requests]
    wait([each for each in asked if isinstance(each, Future)], _WAIT_S)


def allowed(request: Request, sampling: Sampling, draft: list[int]) -> list[int]:
    """The draft up to where the answer would end, or leave its structure."""
    if not request.use_structured_output:
        return draft
    for index, token in enumerate(draft):
        if token in sampling.stop_token_ids:
            draft = draft[:index]
            break
    kept: list[int] = request.structured_output_request.grammar.validate_tokens(draft)
    return kept


def advance(request: Request, tokens: list[int]) -> None:
    """Tell the grammar what was chosen."""
    if request.use_structured_output:
        grammar = request.structured_output_request.grammar
        if not grammar.accept_tokens(request.request_id, tokens):
            raise InternalError(f"request {request.request_id} left its structure")
