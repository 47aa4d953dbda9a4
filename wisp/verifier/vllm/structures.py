"""Structured outputs: vLLM compiles a grammar in its own threads, WISP keeps it in step.

vLLM masks the logits with the grammar before the choice is made. A draft is cut at its first token
that the grammar forbids, so that the mask can be filled behind every draft token.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import wait

from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.request import Request
from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

from wisp.core.request import Sampling, Structure
from wisp.errors import BadRequest, InternalError

# How long a step waits for a grammar when there is nothing else to do; then messages are read
# again. Chosen: it is less than a step of a large target, so that no message waits longer for it.
_WAIT_S = 0.01
# How long a grammar may take to compile. Chosen: those within the bounds of
# wisp/core/structure_cost.py take a second at most, and nobody waits longer for a first token.
_COMPILE_S = 10.0


def params_of(structure: Structure) -> StructuredOutputsParams:
    """Raises BadRequest if it is not valid, or has a feature that xgrammar lacks."""
    try:
        spec = json.loads(structure.text) if structure.kind == "choice" else structure.text
        if not spec:
            raise ValueError("it is empty")
        params = StructuredOutputsParams(**{structure.kind: spec})
        validate_xgrammar_grammar(SamplingParams(structured_outputs=params))
    except Exception as error:  # of what kind depends on the version, and on what is wrong
        raise BadRequest(f"the structure of the answer is not valid: {error}") from error
    params._backend = "xgrammar"
    return params


class Grammars:
    """The grammars of open requests that have a structure."""

    def __init__(self) -> None:
        self._committed: dict[str, list[int]] = {}  # what a new grammar must be told of
        self._begun_s: dict[str, float] = {}  # when one that is not compiled yet was asked for

    def opened(self, request: Request, committed: Sequence[int]) -> None:
        if request.use_structured_output:
            self._committed[request.request_id] = list(committed)

    def closed(self, request_id: str) -> None:
        self._committed.pop(request_id, None)
        self._begun_s.pop(request_id, None)

    def ready(self, request: Request) -> bool:
        """False while it is compiled. Raises InternalError if it cannot be used."""
        if not request.use_structured_output:
            return True
        asked = request.structured_output_request
        if not asked.is_grammar_ready:
            begun_s = self._begun_s.setdefault(request.request_id, time.monotonic())
            if time.monotonic() - begun_s > _COMPILE_S:
                raise InternalError(
                    f"the structure was not compiled within {_COMPILE_S:g} s: make it simpler"
                )
            return False
        if isinstance(asked.grammar, Exception):
            raise InternalError(f"the structure cannot be compiled: {asked.grammar}")
        committed = self._committed.pop(request.request_id, None)
        if committed and not asked.grammar.accept_tokens(request.request_id, committed):
            raise InternalError("the text to resume does not keep to its structure")
        return True


def wait_for_any(requests: Sequence[Request]) -> None:
    """Until the grammar of one of them is compiled, but not long."""
    wait([request.structured_output_request._grammar for request in requests], _WAIT_S)


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
