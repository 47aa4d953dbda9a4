"""What a caller asks for: how much text, and how the target chooses it."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"


class Structure(Struct, frozen=True):
    """What the whole answer must look like; the target chooses among the tokens that keep to it."""

    kind: str  # one of STRUCTURES
    text: str  # the schema as JSON, the expression, a JSON list of choices, the grammar in EBNF


STRUCTURES = ("json", "regex", "choice", "grammar")


MAX_LOGPROBS = 20  # of a token, as in OpenAI's API


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
