"""What goes over the wire of a draft stream: blocks up, verdicts and directives down."""

from __future__ import annotations

from msgspec import Struct

from wisp.core.request import FinishReason


class Directive(Struct, frozen=True):
    """What the server asks of an edge from now on."""

    window: int  # most draft tokens beyond the committed text; 0: rest
    threshold: float  # draft on while cumulative acceptance is at least this


REST = Directive(window=0, threshold=1.0)


class DraftBlock(Struct, frozen=True):
    """Candidates for positions position, position + 1, ... of one epoch."""

    epoch: int
    position: int
    tokens: list[int]
    acceptance: list[float]  # of each: P(accepted | all before it were)
    draft_time_s: float = 0.0
    complete: bool = False  # the edge sends no more before it hears a verdict


class TokenLogprob(Struct, frozen=True):
    """Of one committed token, from the model's unprocessed distribution (OpenAI's meaning)."""

    logprob: float
    top: list[tuple[int, float]] = []  # (token, logprob), the most likely first


class Verdict(Struct, frozen=True, kw_only=True):
    """What one step of the target committed for one session."""

    position: int  # of tokens[0] in the whole token sequence
    tokens: list[int]
    num_drafted: int = 0  # draft tokens that the step verified
    num_accepted: int = 0  # the first so many of `tokens` came from the edge
    num_ngram_drafted: int = 0  # n-gram drafts (wisp.core.ngram) that the step verified
    num_ngram_accepted: int = 0  # the first so many of `tokens` came from those
    directive: Directive
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] | None = None
    server_time_s: float = 0.0  # from the arrival of the last block it used until it left
    step_time_s: float = 0.0  # of that, inside the verifier
    alone_time_s: float = 0.0  # a step of its mean seat alone, by the estimator; 0: unknown
    committed_s: float = 0.0  # when, on the server's clock; stays on the server
