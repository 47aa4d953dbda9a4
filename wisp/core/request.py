"""A request, as every path carries it: what is asked for, and how the target is to choose it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from wisp.core.slo import SloChoice
from wisp.core.structure_cost import check_cost
from wisp.errors import BadRequest


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"


class Structure(Struct, frozen=True):
    """What the whole answer must look like; the target chooses among the tokens that keep to it."""

    kind: str  # one of STRUCTURES
    text: str  # the schema as JSON, the expression, a JSON list of choices, the grammar in EBNF


# Calls of functions within a free text, as xgrammar's JSON: kept to by an engine that can, and by
# others the parser of calls alone looks at them.
TAGS = "structural_tag"
STRUCTURES = ("json", "regex", "choice", "grammar", TAGS)

# The most alternatives of a token whose log-probabilities can be asked for: OpenAI's bound. Those
# of a whole vocabulary would hold all other sessions up.
MAX_LOGPROBS = 20


# The most tokens in `logit_bias`, and in `stop_token_ids`. Chosen: three times what OpenAI takes;
# each of them costs every step of the session some time.
MAX_TOKEN_IDS = 1024
# The longest structure, in characters. Chosen: more than the schemas that people write, and little
# enough to be sent with each `Open`.
MAX_STRUCTURE = 2**16


class Sampling(Struct, frozen=True, kw_only=True):
    """How the target chooses. `seed` and the position alone key the noise (wisp.sampling)."""

    max_tokens: int
    seed: int  # unsigned, 64 bits
    temperature: float = 1.0  # 0 is the plain argmax
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    min_tokens: int = 0  # stop tokens are masked before this many output tokens
    stop_token_ids: tuple[int, ...] = ()  # the model's own end tokens included
    num_logprobs: int | None = None  # None: none; 0: the chosen token's; n: the top n as well
    structure: Structure | None = None


class Request(Struct, frozen=True, kw_only=True):
    """One generation, whichever front it comes through. `ModelCard.check` says if it can be."""

    prompt: list[int]
    sampling: Sampling
    model: str = ""  # the target's id, or an adapter's name; empty: the target
    slo: SloChoice = None
    speculation: bool = True  # False: one token a step, whatever could be drafted
    committed: list[int] = []  # output so far, when this resumes a generation
    conversation: str = ""  # what its application calls those that belong on one replica


# The header, and the gRPC metadata, by which a balancer keeps a conversation on one replica.
CONVERSATION_HEADER = "x-session-id"
# The longest name of a conversation. Chosen: four times a UUID, and no balancer's buffer minds it.
_MAX_CONVERSATION = 144


class _Range(NamedTuple):
    min: float
    max: float
    above: bool = False  # the minimum itself is too low

    def holds(self, value: float) -> bool:
        return self.min <= value <= self.max and not (self.above and value == self.min)

    def __str__(self) -> str:
        if self.max == math.inf:
            return f"at least {self.min:g}"
        return f"{'above ' if self.above else ''}{self.min:g} to {self.max:g}"


# The most that top_k can be: vLLM's sampler has it as a signed integer of 32 bits. One at or above
# the vocabulary filters nothing.
MAX_TOP_K = 2**31 - 1
# The ranges of OpenAI's API where it has the parameter, and of vLLM's sampler where only that has.
# What has no maximum here is bounded by the model's context, before anything is made of it.
RANGES = {
    "max_tokens": _Range(1, math.inf),
    "temperature": _Range(0, 2),
    "top_p": _Range(0, 1, above=True),
    "top_k": _Range(0, MAX_TOP_K),
    "min_p": _Range(0, 1),
    "presence_penalty": _Range(-2, 2),
    "frequency_penalty": _Range(-2, 2),
    "repetition_penalty": _Range(0, 2, above=True),
    "min_tokens": _Range(0, math.inf),
    "num_logprobs": _Range(0, MAX_LOGPROBS),
}
# Of each bias on a token's logit, in OpenAI's API: at its ends the token is certain, or impossible.
BIAS_RANGE = _Range(-100, 100)


def check_conversation(name: str) -> str:
    """The name itself. Raises BadRequest for one that gRPC's metadata could not carry."""
    if len(name) > _MAX_CONVERSATION or not (name.isascii() and (name.isprintable() or not name)):
        raise BadRequest(
            f"{CONVERSATION_HEADER} is up to {_MAX_CONVERSATION} printable ASCII characters",
            param=CONVERSATION_HEADER,
        )
    return name


def check_sampling(sampling: Sampling) -> None:
    """Raises BadRequest for a value that is out of range, or that contradicts another."""
    for name, allowed in RANGES.items():
        value = getattr(sampling, name)
        if value is not None:
            _check_range(name, value, allowed)
    for token, bias in sampling.logit_bias.items():
        _check_range(f"logit_bias[{token}]", bias, BIAS_RANGE)
    if sampling.min_tokens > sampling.max_tokens:
        raise BadRequest(
            f"min_tokens is {sampling.min_tokens}, but at most {sampling.max_tokens} tokens are "
            "possible: lower it",
            param="min_tokens",
        )
    for name, items in (
        ("logit_bias", sampling.logit_bias),
        ("stop_token_ids", sampling.stop_token_ids),
    ):
        if len(items) > MAX_TOKEN_IDS:
            raise BadRequest(f"{name} has {len(items)} tokens: send {MAX_TOKEN_IDS} at most", name)
    if sampling.structure:
        _check_structure(sampling, sampling.structure)


def _check_range(name: str, value: float, allowed: _Range) -> None:
    if not allowed.holds(value):
        raise BadRequest(f"{name} is {allowed}, not {value:g}", param=name)


def _check_structure(sampling: Sampling, structure: Structure) -> None:
    if len(structure.text) > MAX_STRUCTURE:
        raise BadRequest(
            f"the structure has {len(structure.text)} characters: send {MAX_STRUCTURE} at most",
            param="structured_outputs",
        )
    if structure.kind not in STRUCTURES:
        raise BadRequest(
            f"structured_outputs are {', '.join(STRUCTURES)}, not '{structure.kind}'",
            param="structured_outputs",
        )
    check_cost(structure.kind, structure.text)
    if structure.kind == TAGS:
        return  # the text around its calls may end anywhere, and so never or later
    if sampling.min_tokens or not sampling.stop_token_ids:
        raise BadRequest(
            "a structured output ends where its structure does: leave out min_tokens and "
            "ignore_eos",
            param="min_tokens" if sampling.min_tokens else "ignore_eos",
        )


def check_tokens(
    tokens: Iterable[int], vocab_size: int, name: str, kind: type[BadRequest] = BadRequest
) -> None:
    """Raises `kind` for the first token that the model does not have."""
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise kind(
                f"{name} holds token {token}, but the model's are 0 to {vocab_size - 1}",
                param=name,
            )
