"""Protobuf to core and back: the only place where the two meet.

Decoding checks what the types do not say; it raises ProtocolError with one sentence.
"""

from __future__ import annotations

import math

from msgspec import Struct

from wisp.core.drafts import (
    Directive,
    DraftBlock,
    DraftCounts,
    Rejection,
    Source,
    TokenLogprob,
    Verdict,
)
from wisp.core.request import FinishReason, Request, Sampling, Structure
from wisp.core.slo import Slo, SloChoice
from wisp.errors import ProtocolError
from wisp.v1 import wisp_pb2 as pb

# The version of the protocol, raised with each change that the other end could misread, and the
# oldest that a server still speaks. Version 2 by definition has forks; to an edge of version 1 the
# server says nothing that it would misread.
PROTOCOL, OLDEST_PROTOCOL = 2, 1
# An acceptance of 1 in the protocol, which has one byte for each draft token: its greatest value.
_BYTE = 255
# The longest resume key, in bytes. Chosen: nobody guesses one of 16, and the server keeps one for
# each session.
_MAX_RESUME_KEY = 64
_FINISH = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_FINISH_BACK = {number: reason for reason, number in _FINISH.items()}
_SOURCE = {
    Source.EDGE: pb.SOURCE_EDGE,
    Source.NGRAM: pb.SOURCE_NGRAM,
    Source.OWN: pb.SOURCE_OWN,
}
_SOURCE_BACK = {number: source for source, number in _SOURCE.items()}
_REJECTION = {
    None: pb.REJECTION_NONE,
    Rejection.UNCOVERED: pb.REJECTION_UNCOVERED,
    Rejection.COVERED: pb.REJECTION_COVERED,
    Rejection.SEAMLESS: pb.REJECTION_SEAMLESS,
}
_REJECTION_BACK = {number: rejection for rejection, number in _REJECTION.items()}


class Hello(Struct, frozen=True, kw_only=True):
    """What an edge says of itself beside its request, so that a wrong pair is found at once."""

    tokenizer_name: str = ""
    tokenizer_fingerprint: str = ""
    device: str = ""  # for the server's operators
    protocol: int = PROTOCOL
    # Of this generation: whoever opens with it again takes the place of the stream before.
    resume_key: bytes = b""
    padding: bool = True  # it takes messages that hold padding alone


def encode_open(request: Request, hello: Hello) -> pb.EdgeMessage:
    return pb.EdgeMessage(
        open=pb.Open(
            protocol=hello.protocol,
            model=request.model,
            tokenizer_name=hello.tokenizer_name,
            tokenizer_fingerprint=hello.tokenizer_fingerprint,
            prompt=request.prompt,
            committed=request.committed,
            sampling=_encode_sampling(request.sampling),
            slo=_encode_slo(request.slo),
            speculation=request.speculation,
            device=hello.device,
            resume_key=hello.resume_key,
            padding=hello.padding,
        )
    )


def decode_open(message: pb.EdgeMessage) -> tuple[Request, Hello]:
    if message.WhichOneof("message") != "open":
        raise ProtocolError("a stream must begin with Open")
    opening = message.open
    if not opening.HasField("sampling"):
        raise ProtocolError("Open lacks its sampling parameters")
    request = Request(
        prompt=list(opening.prompt),
        committed=list(opening.committed),
        sampling=_decode_sampling(opening.sampling),
        model=opening.model,
        slo=_decode_slo(opening.slo) if opening.HasField("slo") else None,
        speculation=opening.speculation,
    )
    hello = Hello(
        tokenizer_name=opening.tokenizer_name,
        tokenizer_fingerprint=opening.tokenizer_fingerprint,
        device=opening.device,
        protocol=opening.protocol,
        resume_key=opening.resume_key,
        padding=opening.padding,
    )
    if len(hello.resume_key) > _MAX_RESUME_KEY:
        raise ProtocolError(f"a resume key has at most {_MAX_RESUME_KEY} bytes: 16 are enough")
    return request, hello


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


def _encode_sampling(s: Sampling) -> pb.Sampling:
    structure = None
    if s.structure:
        structure = pb.Structure(kind=s.structure.kind, text=s.structure.text)
    return pb.Sampling(
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
        structure=structure,
    )


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


def encode_draft(block: DraftBlock) -> pb.EdgeMessage:
    return pb.EdgeMessage(
        draft=pb.Draft(
            epoch=block.epoch,
            position=block.position,
            tokens=block.tokens,
            acceptance=_encode_acceptance(block),
            draft_time_s=block.draft_time_s,
            complete=block.complete,
            parent=block.parent,
            forks=[
                pb.Fork(
                    epoch=fork.epoch,
                    parent=fork.parent,
                    position=fork.position,
                    tokens=fork.tokens,
                    acceptance=_encode_acceptance(fork),
                )
                for fork in block.forks
            ],
        )
    )


def _encode_acceptance(block: DraftBlock) -> bytes:
    return bytes(round(p * _BYTE) for p in block.acceptance)


def decode_draft(message: pb.EdgeMessage) -> DraftBlock:
    if message.WhichOneof("message") != "draft":
        raise ProtocolError("after Open a stream takes Drafts alone")
    draft = message.draft
    if not 0 <= draft.draft_time_s < math.inf:
        raise ProtocolError(f"a draft block cannot have taken {draft.draft_time_s} s")
    return DraftBlock(
        epoch=draft.epoch,
        position=draft.position,
        tokens=list(draft.tokens),
        acceptance=_decode_acceptance(draft),
        draft_time_s=draft.draft_time_s,
        complete=draft.complete,
        parent=draft.parent,
        forks=[
            DraftBlock(
                epoch=fork.epoch,
                position=fork.position,
                tokens=list(fork.tokens),
                acceptance=_decode_acceptance(fork),
                parent=fork.parent,
            )
            for fork in draft.forks
        ],
    )


def _decode_acceptance(block: pb.Draft | pb.Fork) -> list[float]:
    if len(block.acceptance) != len(block.tokens):
        raise ProtocolError(
            f"a draft block of {len(block.tokens)} tokens needs as many acceptance bytes, "
            f"not {len(block.acceptance)}"
        )
    return [byte / _BYTE for byte in block.acceptance]


def encode_opened(
    directive: Directive, max_window: int, slo: Slo, max_forks: int = 0
) -> pb.ServerMessage:
    promised = pb.Slo(tokens_per_s=slo.tokens_per_s, first_token_s=slo.first_token_s, name=slo.name)
    return pb.ServerMessage(
        opened=pb.Opened(
            directive=_encode_directive(directive),
            max_window=max_window,
            slo=promised,
            max_forks=max_forks,
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
            rejection=_REJECTION[verdict.rejection],
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
        rejection=_REJECTION_BACK.get(verdict.rejection),
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
