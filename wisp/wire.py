"""Protobuf to core and back: the only place where the two meet.

Decoding checks what the types do not say; it raises ProtocolError with one sentence.
"""

from __future__ import annotations

import math

from msgspec import Struct

from wisp.core.drafts import Directive, DraftBlock, DraftCounts, Source, TokenLogprob, Verdict
from wisp.core.request import MAX_LOGPROBS, STRUCTURES, FinishReason, Sampling, Structure
from wisp.core.slo import Slo, SloChoice
from wisp.errors import BadRequest, ProtocolError
from wisp.v1 import wisp_pb2 as pb

PROTOCOL = 1
_BYTE = 255
_FINISH = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_FINISH_BACK = {number: reason for reason, number in _FINISH.items()}
_SOURCE = {Source.EDGE: pb.SOURCE_EDGE, Source.NGRAM: pb.SOURCE_NGRAM}
_SOURCE_BACK = {number: source for source, number in _SOURCE.items()}


class Open(Struct, frozen=True, kw_only=True):
    """How a generation begins, or goes on after a lost connection."""

    prompt: list[int]
    sampling: Sampling
    committed: list[int] = []
    slo: SloChoice = None
    drafts: bool = True
    model: str = ""
    tokenizer_name: str = ""
    tokenizer_fingerprint: str = ""
    device: str = ""
    protocol: int = PROTOCOL


def encode_open(opening: Open) -> pb.EdgeMessage:
    s = opening.sampling
    sampling = pb.Sampling(
        max_tokens=s.max_tokens,
        seed=s.seed,
        temperature=s.temperature,
        top_p=s.top_p,
        top_k=s.top_k,
        min_p=s.min_p,
        presence_penalty=s.presence_penalty,
        frequency_penalty=s.frequency_penalty,
        repetition_penalty=s.repetition_penalty,
        logit_bias=s.logit_bias,
        min_tokens=s.min_tokens,
        stop_token_ids=s.stop_token_ids,
        num_logprobs=s.num_logprobs,
        structure=pb.Structure(kind=s.structure.kind, text=s.structure.text)
        if s.structure
        else None,
    )
    return pb.EdgeMessage(
        open=pb.Open(
            protocol=opening.protocol,
            model=opening.model,
            tokenizer_name=opening.tokenizer_name,
            tokenizer_fingerprint=opening.tokenizer_fingerprint,
            prompt=opening.prompt,
            committed=opening.committed,
            sampling=sampling,
            slo=_encode_slo(opening.slo),
            drafts=opening.drafts,
            device=opening.device,
        )
    )


def decode_open(message: pb.EdgeMessage) -> Open:
    if message.WhichOneof("message") != "open":
        raise ProtocolError("a stream must begin with Open")
    opening = message.open
    if not opening.HasField("sampling"):
        raise ProtocolError("Open lacks its sampling parameters")
    return Open(
        prompt=list(opening.prompt),
        committed=list(opening.committed),
        sampling=_decode_sampling(opening.sampling),
        slo=_decode_slo(opening.slo) if opening.HasField("slo") else None,
        drafts=opening.drafts,
        device=opening.device,
        model=opening.model,
        tokenizer_name=opening.tokenizer_name,
        tokenizer_fingerprint=opening.tokenizer_fingerprint,
        protocol=opening.protocol,
    )


def _encode_slo(slo: SloChoice) -> pb.Slo | None:
    if isinstance(slo, Slo):
        return pb.Slo(tokens_per_s=slo.tokens_per_s, first_token_s=slo.first_token_s)
    return pb.Slo(name=slo) if slo else None


def _decode_slo(slo: pb.Slo) -> SloChoice:
    if slo.name:
        if slo.tokens_per_s or slo.first_token_s:
            raise ProtocolError("an SLO is a class by its name or two numbers, not both")
        return slo.name
    return Slo(tokens_per_s=slo.tokens_per_s, first_token_s=slo.first_token_s)


def _decode_sampling(s: pb.Sampling) -> Sampling:
    return Sampling(
        max_tokens=s.max_tokens,
        seed=s.seed,
        temperature=s.temperature if s.HasField("temperature") else 1.0,
        top_p=s.top_p if s.HasField("top_p") else 1.0,
        top_k=s.top_k,
        min_p=s.min_p,
        presence_penalty=s.presence_penalty,
        frequency_penalty=s.frequency_penalty,
        repetition_penalty=s.repetition_penalty if s.HasField("repetition_penalty") else 1.0,
        logit_bias=dict(s.logit_bias),
        min_tokens=s.min_tokens,
        stop_token_ids=tuple(s.stop_token_ids),
        num_logprobs=s.num_logprobs if s.HasField("num_logprobs") else None,
        structure=Structure(s.structure.kind, s.structure.text)
        if s.HasField("structure")
        else None,
    )


def check_sampling(s: Sampling) -> None:
    """Raises BadRequest for a value that no sampler could use, whichever front it came through."""
    rules = {
        "max_tokens": s.max_tokens >= 1,
        "temperature": 0 <= s.temperature < math.inf,
        "top_p": 0 < s.top_p <= 1,
        "min_p": 0 <= s.min_p <= 1,
        "presence_penalty": math.isfinite(s.presence_penalty),
        "frequency_penalty": math.isfinite(s.frequency_penalty),
        "repetition_penalty": 0 < s.repetition_penalty < math.inf,
        "logit_bias": all(math.isfinite(bias) for bias in s.logit_bias.values()),
        "num_logprobs": s.num_logprobs is None or 0 <= s.num_logprobs <= MAX_LOGPROBS,
    }
    for name, holds in rules.items():
        if not holds:
            raise BadRequest(f"{name} is out of range: {getattr(s, name)}", param=name)
    if s.structure:
        _check_structure(s, s.structure)


def _check_structure(s: Sampling, structure: Structure) -> None:
    if structure.kind not in STRUCTURES:
        raise BadRequest(
            f"structured_outputs are {', '.join(STRUCTURES)}, not '{structure.kind}'",
            param="structured_outputs",
        )
    if s.min_tokens or not s.stop_token_ids:
        raise BadRequest(
            "a structured output ends where its structure does: leave out min_tokens and "
            "ignore_eos",
            param="min_tokens" if s.min_tokens else "ignore_eos",
        )


def encode_draft(block: DraftBlock) -> pb.EdgeMessage:
    return pb.EdgeMessage(
        draft=pb.Draft(
            epoch=block.epoch,
            position=block.position,
            tokens=block.tokens,
            acceptance=bytes(round(p * _BYTE) for p in block.acceptance),
            draft_time_s=block.draft_time_s,
            complete=block.complete,
        )
    )


def decode_draft(message: pb.EdgeMessage) -> DraftBlock:
    if message.WhichOneof("message") != "draft":
        raise ProtocolError("after Open a stream takes Drafts alone")
    draft = message.draft
    if len(draft.acceptance) != len(draft.tokens):
        raise ProtocolError(
            f"a draft block of {len(draft.tokens)} tokens needs as many acceptance bytes, "
            f"not {len(draft.acceptance)}"
        )
    if not 0 <= draft.draft_time_s < math.inf:
        raise ProtocolError(f"a draft block cannot have taken {draft.draft_time_s} s")
    return DraftBlock(
        epoch=draft.epoch,
        position=draft.position,
        tokens=list(draft.tokens),
        acceptance=[byte / _BYTE for byte in draft.acceptance],
        draft_time_s=draft.draft_time_s,
        complete=draft.complete,
    )


def encode_opened(directive: Directive, max_window: int, slo: Slo) -> pb.ServerMessage:
    promised = pb.Slo(tokens_per_s=slo.tokens_per_s, first_token_s=slo.first_token_s, name=slo.name)
    return pb.ServerMessage(
        opened=pb.Opened(
            directive=_encode_directive(directive), max_window=max_window, slo=promised
        )
    )


def decode_promise(opened: pb.Opened) -> Slo:
    slo = opened.slo
    return Slo(tokens_per_s=slo.tokens_per_s, first_token_s=slo.first_token_s, name=slo.name)


def encode_verdict(verdict: Verdict) -> pb.ServerMessage:
    return pb.ServerMessage(
        verdict=pb.Verdict(
            position=verdict.position,
            tokens=verdict.tokens,
            num_drafted=verdict.num_drafted,
            num_accepted=verdict.num_accepted,
            source=_SOURCE[verdict.source],
            directive=_encode_directive(verdict.directive),
            finish_reason=_FINISH[verdict.finish_reason],
            logprobs=[
                pb.TokenLogprob(
                    logprob=token.logprob,
                    top_tokens=[id for id, _ in token.top],
                    top_logprobs=[logprob for _, logprob in token.top],
                )
                for token in verdict.logprobs or ()
            ],
            server_time_s=verdict.server_time_s,
            step_time_s=verdict.step_time_s,
            alone_time_s=verdict.alone_time_s,
        )
    )


def decode_verdict(verdict: pb.Verdict) -> Verdict:
    logprobs = [
        TokenLogprob(token.logprob, list(zip(token.top_tokens, token.top_logprobs, strict=True)))
        for token in verdict.logprobs
    ]
    # Drafts of a source that this release does not know are nobody's that it could count them for.
    source = _SOURCE_BACK.get(verdict.source)
    drafts = DraftCounts(verdict.num_drafted, verdict.num_accepted) if source else DraftCounts()
    return Verdict(
        position=verdict.position,
        tokens=list(verdict.tokens),
        num_drafted=drafts.num_drafted,
        num_accepted=drafts.num_accepted,
        source=source or Source.EDGE,
        directive=decode_directive(verdict.directive),
        finish_reason=_FINISH_BACK[verdict.finish_reason],
        logprobs=logprobs or None,
        server_time_s=verdict.server_time_s,
        step_time_s=verdict.step_time_s,
        alone_time_s=verdict.alone_time_s,
    )


def _encode_directive(directive: Directive) -> pb.Directive:
    return pb.Directive(window=directive.window, threshold=directive.threshold)


def decode_directive(directive: pb.Directive) -> Directive:
    return Directive(directive.window, directive.threshold)
