"""The gRPC front over a real socket: what breaks the rules is answered, and harms nobody else."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from msgspec import structs

from tests.conftest import start_server
from wisp import wire
from wisp.config import TINY
from wisp.core.drafts import DraftBlock
from wisp.core.request import Request, Sampling, Structure
from wisp.core.slo import Slo, SloChoice
from wisp.launch import Process
from wisp.models.tokenizer import Tokenizer
from wisp.server.grpc_services import Health
from wisp.v1 import wisp_pb2 as pb
from wisp.v1 import wisp_pb2_grpc

PROMPT = [300, 301, 302]


@pytest.fixture(scope="module")
def server(logs: Path) -> Iterator[Process]:
    """Its policy waits for drafts and admits everybody, so that it is known what comes when."""
    with start_server(logs, "--scheduling.policy=fcfs") as process:
        yield process


@pytest.fixture
def channel(server: Process) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.facts['grpc']}") as channel:
        yield channel


REQUEST = Request(
    prompt=PROMPT,
    sampling=Sampling(max_tokens=12, seed=4, temperature=0.0),
    slo=Slo(tokens_per_s=1000, first_token_s=1),
)
PATIENT = structs.replace(REQUEST, slo=Slo(tokens_per_s=0.01, first_token_s=100))


@pytest.fixture(scope="module")
def hello() -> wire.Hello:
    tokenizer = Tokenizer(TINY / "draft")
    return wire.Hello(tokenizer_name=tokenizer.name, tokenizer_fingerprint=tokenizer.fingerprint)


def structured(kind: str, **changes: Any) -> Sampling:
    values: dict[str, Any] = {"max_tokens": 5, "seed": 1, "stop_token_ids": (0,)} | changes
    return Sampling(structure=Structure(kind, "[ab]+"), **values)


class Stream:
    """One Generate stream: messages go out of a queue until it is closed."""

    def __init__(self, channel: grpc.Channel, *messages: pb.EdgeMessage) -> None:
        stub: Any = wisp_pb2_grpc.WispStub(channel)  # type: ignore[no-untyped-call]
        self._out: queue.Queue[pb.EdgeMessage | None] = queue.Queue()
        for message in messages:
            self._out.put(message)
        self.answers = stub.Generate(iter(self._out.get, None))

    def send(self, message: pb.EdgeMessage) -> None:
        self._out.put(message)

    def close(self) -> None:
        self._out.put(None)

    def tokens(self) -> list[int]:
        """All that is committed until the stream ends."""
        tokens: list[int] = []
        try:
            for answer in self.answers:
                tokens += answer.verdict.tokens
                if answer.verdict.finish_reason:
                    self.close()
        finally:
            self.close()
        return tokens

    def refusal(self) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            self.tokens()
        return caught.value


def draft(
    epoch: int,
    position: int,
    tokens: list[int],
    forks: Sequence[tuple[int, int, list[int]]] = (),
) -> pb.EdgeMessage:
    """`forks`: each its epoch, position and tokens; all of them fork the block's own epoch."""
    blocks = [DraftBlock(e, p, t, [0.0, *[1.0] * (len(t) - 1)], parent=epoch) for e, p, t in forks]
    return wire.encode_draft(DraftBlock(epoch, position, tokens, [1.0] * len(tokens), forks=blocks))


def test_a_session_that_sends_no_drafts_gets_its_text(
    channel: grpc.Channel, hello: wire.Hello
) -> None:
    assert len(Stream(channel, wire.encode_open(REQUEST, hello)).tokens()) == 12


@pytest.mark.parametrize(
    ("asked", "promised"),
    [
        (None, Slo(name="default", tokens_per_s=10, first_token_s=2)),
        ("batch", Slo(name="batch", tokens_per_s=2, first_token_s=30)),
        (Slo(tokens_per_s=7, first_token_s=8), Slo(tokens_per_s=7, first_token_s=8)),
    ],
)
def test_an_edge_is_told_what_it_is_promised(
    channel: grpc.Channel, hello: wire.Hello, asked: SloChoice, promised: Slo
) -> None:
    stream = Stream(channel, wire.encode_open(structs.replace(REQUEST, slo=asked), hello))
    first = next(stream.answers)
    stream.tokens()
    assert wire.decode_promise(first.opened) == promised


def test_a_stream_ends_when_the_edge_has_said_that_it_has_heard_all(
    channel: grpc.Channel, hello: wire.Hello
) -> None:
    """A proxy may drop what it has not passed on of a stream that ends before."""
    stream = Stream(channel, wire.encode_open(REQUEST, hello))
    next(answer for answer in stream.answers if answer.verdict.finish_reason)
    assert stream.answers.is_active()
    stream.close()
    with pytest.raises(StopIteration):
        next(stream.answers)
    assert stream.answers.code() is grpc.StatusCode.OK


def test_right_drafts_are_accepted(channel: grpc.Channel, hello: wire.Hello) -> None:
    text = Stream(channel, wire.encode_open(REQUEST, hello)).tokens()
    stream = Stream(channel, wire.encode_open(PATIENT, hello), draft(1, 3, text[:11]))
    verdicts = [answer.verdict for answer in stream.answers if answer.HasField("verdict")]
    stream.close()
    assert [t for verdict in verdicts for t in verdict.tokens] == text
    assert sum(verdict.num_accepted for verdict in verdicts) >= 10  # the first may be there before
    assert all(v.server_time_s > v.step_time_s for v in verdicts if v.num_drafted)


def test_a_fork_that_is_right_goes_on_without_the_edge(
    channel: grpc.Channel, hello: wire.Hello
) -> None:
    text = Stream(channel, wire.encode_open(REQUEST, hello)).tokens()
    wrong = [*text[:4], text[4] ^ 1]
    stream = Stream(
        channel,
        wire.encode_open(PATIENT, hello),
        draft(1, 3, wrong, forks=[(2, 7, text[4:11])]),
    )
    verdicts = [answer.verdict for answer in stream.answers if answer.HasField("verdict")]
    stream.close()
    assert [t for verdict in verdicts for t in verdict.tokens] == text
    assert [v.rejection for v in verdicts if v.rejection] == [pb.REJECTION_SEAMLESS]
    assert sum(verdict.num_accepted for verdict in verdicts) >= 9


def test_an_edge_that_knows_nothing_of_forks_is_served(
    channel: grpc.Channel, hello: wire.Hello
) -> None:
    old = structs.replace(hello, protocol=1)
    text = Stream(channel, wire.encode_open(REQUEST, hello)).tokens()
    stream = Stream(channel, wire.encode_open(PATIENT, old), draft(1, 3, text[:11]))
    assert stream.tokens() == text


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        ({"prompt": []}, "INVALID_ARGUMENT", "the prompt is empty"),
        ({"prompt": [4096]}, "INVALID_ARGUMENT", "prompt holds token 4096"),
        ({"prompt": [7] * 2040}, "OUT_OF_RANGE", "context is 2048 tokens"),
        ({"model": "other"}, "NOT_FOUND", "'other' is not served here: use 'target'"),
        ({"committed": [1] * 12}, "INVALID_ARGUMENT", "already complete"),
        ({"slo": Slo(tokens_per_s=0, first_token_s=1)}, "INVALID_ARGUMENT", "0.001 to 1e+06"),
        ({"slo": "gold"}, "INVALID_ARGUMENT", "'gold': use one of batch, default, interactive"),
        ({"sampling": Sampling(max_tokens=5, seed=1, top_p=0.0)}, "INVALID_ARGUMENT", "top_p"),
        ({"sampling": Sampling(max_tokens=0, seed=1)}, "INVALID_ARGUMENT", "max_tokens"),
        ({"sampling": structured("regex")}, "INVALID_ARGUMENT", "start it with the engine 'vllm'"),
        ({"sampling": structured("xml")}, "INVALID_ARGUMENT", "not 'xml'"),
        ({"sampling": structured("regex", min_tokens=2)}, "INVALID_ARGUMENT", "min_tokens"),
        ({"sampling": structured("regex", stop_token_ids=())}, "INVALID_ARGUMENT", "ignore_eos"),
    ],
)
def test_a_wrong_opening_is_refused(
    channel: grpc.Channel, hello: wire.Hello, change: dict[str, Any], code: str, sentence: str
) -> None:
    message = wire.encode_open(structs.replace(REQUEST, **change), hello)
    refusal = Stream(channel, message).refusal()
    assert refusal.code().name == code
    assert sentence in str(refusal.details())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"protocol": 9}, "the edge speaks protocol 9"),
        ({"tokenizer_fingerprint": "0"}, "'draft' (0) is not that of"),
    ],
)
def test_an_edge_that_does_not_fit_is_refused(
    channel: grpc.Channel, hello: wire.Hello, change: dict[str, Any], sentence: str
) -> None:
    message = wire.encode_open(REQUEST, structs.replace(hello, **change))
    refusal = Stream(channel, message).refusal()
    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert sentence in str(refusal.details())


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (draft(1, 50, [1]), "starts at position 50 but the stream ends at"),
        (draft(1, 3, [4096]), "draft holds token 4096"),
        (draft(1, 3, [1] * 2000), "at most 64 may"),
        (draft(1, 3, [1], forks=[(2, 3, [4096])]), "draft holds token 4096"),
        (pb.EdgeMessage(), "after Open a stream takes Drafts alone"),
        (
            pb.EdgeMessage(draft=pb.Draft(epoch=1, position=3, tokens=[1, 2], acceptance=b"1")),
            "as many acceptance bytes",
        ),
    ],
)
def test_a_broken_stream_ends_alone(
    channel: grpc.Channel, hello: wire.Hello, message: pb.EdgeMessage, sentence: str
) -> None:
    neighbour = Stream(channel, wire.encode_open(REQUEST, hello))
    refusal = Stream(channel, wire.encode_open(PATIENT, hello), message).refusal()
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in str(refusal.details())
    assert len(neighbour.tokens()) == 12


def test_more_forks_than_agreed_end_the_stream(channel: grpc.Channel, hello: wire.Hello) -> None:
    """They go on with the first token, so that they wait whether or not it is chosen before them:
    behind it nothing is, for a hundred seconds."""
    first = Stream(channel, wire.encode_open(REQUEST, hello)).tokens()[0]
    forks = [(epoch, 3, [first, epoch]) for epoch in range(2, 11)]
    message = draft(1, 3, [first, 1], forks=forks)
    refusal = Stream(channel, wire.encode_open(PATIENT, hello), message).refusal()
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "9 forks are waiting but at most 8 may" in str(refusal.details())


def test_a_flood_of_drafts_ends_its_own_stream(channel: grpc.Channel, hello: wire.Hello) -> None:
    """Each of them alone is within the rules: a block that came before changes nothing."""
    neighbour = Stream(channel, wire.encode_open(REQUEST, hello))
    flood = [draft(1, 3, [1])] * 2000
    refusal = Stream(channel, wire.encode_open(PATIENT, hello), *flood).refusal()
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "more drafts came than verdicts can answer" in str(refusal.details())
    assert len(neighbour.tokens()) == 12


def test_a_resume_takes_the_place_of_its_old_self(channel: grpc.Channel, hello: wire.Hello) -> None:
    """However full the server is: all its slots are taken by the generations that come back."""
    text = Stream(channel, wire.encode_open(REQUEST, hello)).tokens()
    hellos = [structs.replace(hello, resume_key=bytes([number] * 16)) for number in range(32)]
    lost = [Stream(channel, wire.encode_open(PATIENT, each)) for each in hellos]
    for stream in lost:
        assert next(stream.answers).HasField("opened")
    resumed = structs.replace(REQUEST, committed=text[:4])
    assert "all 32 sessions" in str(
        Stream(channel, wire.encode_open(resumed, hello)).refusal().details()
    )
    for each in hellos:
        assert Stream(channel, wire.encode_open(resumed, each)).tokens() == text[4:]
    for stream in lost:
        refusal = stream.refusal()
        assert refusal.code() is grpc.StatusCode.ABORTED
        assert "resumed on another stream" in str(refusal.details())


def test_a_resume_key_has_a_bound(channel: grpc.Channel, hello: wire.Hello) -> None:
    long = structs.replace(hello, resume_key=b"x" * 65)
    refusal = Stream(channel, wire.encode_open(REQUEST, long)).refusal()
    assert "at most 64 bytes" in str(refusal.details())


def test_a_stream_that_begins_with_a_draft_is_refused(channel: grpc.Channel) -> None:
    refusal = Stream(channel, draft(1, 3, [1])).refusal()
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "must begin with Open" in str(refusal.details())


def test_a_stream_that_ends_before_it_began_is_refused(channel: grpc.Channel) -> None:
    stream = Stream(channel)
    stream.close()
    assert "must begin with Open" in str(stream.refusal().details())


def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel, hello: wire.Hello) -> None:
    raw: Any = channel.stream_stream("/wisp.v1.Wisp/Generate", bytes, bytes)
    neighbour = Stream(channel, wire.encode_open(REQUEST, hello))
    with pytest.raises(grpc.RpcError) as caught:
        list(raw(iter([b"\xff\xff\xff"])))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a message of wisp.v1" in str(caught.value.details())
    assert len(neighbour.tokens()) == 12


def test_the_standard_health_service_answers(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "wisp.v1.Wisp"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_service(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]))
    assert "wisp.v1.Wisp" in [s.name for s in answer.list_services_response.service]


def test_a_server_starts_beside_a_later_standard_of_health(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Versions of its library register methods that are not ours: none may be missing."""
    later = "List"
    monkeypatch.setattr(health_pb2_grpc.HealthServicer, later, lambda *_: None, raising=False)
    assert hasattr(Health(lambda: None), later)
