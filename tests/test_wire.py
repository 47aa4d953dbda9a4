from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp import wire
from wisp.core.drafts import Directive, DraftBlock, Rejection, Source, TokenLogprob, Verdict
from wisp.core.request import FinishReason, Request, Sampling, Structure
from wisp.core.slo import Slo
from wisp.errors import ProtocolError
from wisp.v1 import wisp_pb2 as pb

ROOT = Path(__file__).parent.parent
TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=20)
FLOATS = st.floats(-2, 2)
SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(1, 1000),
    seed=st.integers(0, 2**64 - 1),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1),
    top_k=st.integers(0, 100),
    min_p=st.floats(0, 1),
    presence_penalty=FLOATS,
    frequency_penalty=FLOATS,
    repetition_penalty=st.floats(0, 2),
    logit_bias=st.dictionaries(st.integers(0, 2**32 - 1), FLOATS, max_size=3),
    min_tokens=st.integers(0, 9),
    stop_token_ids=TOKENS.map(tuple),
    num_logprobs=st.none() | st.integers(0, 20),
    structure=st.none() | st.builds(Structure, st.text(max_size=5), st.text(max_size=9)),
)


@given(
    st.builds(
        Request,
        prompt=TOKENS,
        committed=TOKENS,
        sampling=SAMPLINGS,
        slo=st.none()
        | st.text(min_size=1, max_size=5)
        | st.builds(Slo, tokens_per_s=st.floats(0, 9), first_token_s=st.floats(0, 9)),
        speculation=st.booleans(),
        model=st.text(max_size=5),
    ),
    st.builds(
        wire.Hello,
        tokenizer_name=st.text(max_size=5),
        tokenizer_fingerprint=st.text(max_size=5),
        device=st.text(max_size=5),
    ),
)
def test_open_there_and_back(request_: Request, hello: wire.Hello) -> None:
    sent = wire.encode_open(request_, hello).SerializeToString()
    assert wire.decode_open(pb.EdgeMessage.FromString(sent)) == (request_, hello)


def test_an_opening_names_a_class_or_has_numbers() -> None:
    slo = pb.Slo(name="gold", tokens_per_s=3)
    with pytest.raises(ProtocolError, match="not both"):
        wire.decode_open(pb.EdgeMessage(open=pb.Open(sampling=pb.Sampling(), slo=slo)))


def test_the_promise_there_and_back() -> None:
    slo = Slo(tokens_per_s=20.0, first_token_s=0.5, name="gold")
    message = wire.encode_opened(Directive(4, 0.25), 64, slo)
    assert wire.decode_promise(message.opened) == slo


def test_a_block_of_four_is_tens_of_bytes() -> None:
    block = DraftBlock(7, 1000, [100_000] * 4, [0.5] * 4, draft_time_s=0.1)
    assert len(wire.encode_draft(block).SerializeToString()) < 50


def test_a_draft_with_forks_there_and_back() -> None:
    forks = [
        DraftBlock(8, 11, [5, 6], [0.2, 1.0], parent=7),
        DraftBlock(9, 12, [7], [51 / 255], parent=8),
    ]
    block = DraftBlock(7, 10, [1, 2], [1.0, 0.0], draft_time_s=0.5, parent=3, forks=forks)
    assert wire.decode_draft(wire.encode_draft(block)) == block
    assert block.num_tokens == 5


def test_a_fork_needs_as_many_acceptances_as_tokens() -> None:
    fork = pb.Fork(epoch=2, parent=1, position=5, tokens=[1, 2], acceptance=b"1")
    with pytest.raises(ProtocolError, match="2 tokens needs as many acceptance bytes, not 1"):
        wire.decode_draft(pb.EdgeMessage(draft=pb.Draft(epoch=1, forks=[fork])))


def test_draft_there_and_back() -> None:
    block = DraftBlock(7, 10, [1, 2], [1.0, 51 / 255], draft_time_s=0.5, complete=True)
    assert wire.decode_draft(wire.encode_draft(block)) == block


@pytest.mark.parametrize("time_s", [-1.0, math.inf, math.nan])
def test_a_block_takes_a_time(time_s: float) -> None:
    with pytest.raises(ProtocolError, match="cannot have taken"):
        wire.decode_draft(pb.EdgeMessage(draft=pb.Draft(epoch=1, draft_time_s=time_s)))


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("rejection", [None, *Rejection])
@pytest.mark.parametrize("reason", [None, *FinishReason])
def test_verdict_there_and_back(
    reason: FinishReason | None, source: Source, rejection: Rejection | None
) -> None:
    verdict = Verdict(
        position=5,
        tokens=[1, 2],
        num_drafted=3,
        num_accepted=1,
        source=source,
        rejection=rejection,
        directive=Directive(4, 0.25),
        finish_reason=reason,
        logprobs=[TokenLogprob(-1.0, [(1, -1.0), (9, -2.0)]), TokenLogprob(-0.5)],
        server_time_s=0.5,
        step_time_s=0.25,
        alone_time_s=0.125,
    )
    assert wire.decode_verdict(wire.encode_verdict(verdict).verdict) == verdict


def test_drafts_of_a_source_unknown_here_are_not_counted() -> None:
    message = pb.Verdict(position=5, tokens=[1, 2], num_drafted=3, num_accepted=1)
    message.source = 99  # type: ignore[assignment]  # as a newer server may send
    verdict = wire.decode_verdict(message)
    assert (verdict.tokens, verdict.num_drafted, verdict.num_accepted) == ([1, 2], 0, 0)


def test_absent_parameters_are_neutral() -> None:
    message = pb.EdgeMessage(open=pb.Open(sampling=pb.Sampling(max_tokens=3, seed=1)))
    asked, _ = wire.decode_open(message)
    assert asked.sampling == Sampling(max_tokens=3, seed=1)


def test_an_opening_needs_sampling_parameters() -> None:
    with pytest.raises(ProtocolError, match="lacks its sampling"):
        wire.decode_open(pb.EdgeMessage(open=pb.Open(prompt=[1])))


def test_the_generated_code_is_fresh(tmp_path: Path) -> None:
    """If this fails, run `make proto`."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}"]
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([*command, *out, "wisp/v1/wisp.proto"], check=True)
    for made in (tmp_path / "wisp" / "v1").iterdir():
        assert made.read_text() == (ROOT / "wisp" / "v1" / made.name).read_text(), made.name
