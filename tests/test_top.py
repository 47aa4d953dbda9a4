from __future__ import annotations

import io
import os

import httpx
import msgspec
import pytest
from rich.console import Console

from wisp.errors import Unavailable
from wisp.stats import BatchStats, ClassStats, DeviceStats, EstimatorStats, SessionStats, Stats
from wisp.top import draw, look, quits

EMPTY = Stats(
    model="target",
    policy="wisp",
    uptime_s=5.0,
    max_sessions=32,
    num_sessions=0,
    num_with_edge=0,
    committed_per_s=0.0,
    goodput_per_s=0.0,
    marginal_cost=None,
    interference=None,
    batch=None,
    estimator=None,
    classes=[],
    devices=[],
    sessions=[],
)


def busy() -> Stats:
    session = SessionStats(
        id=7,
        device="pi[bold]",
        slo_class="gold",
        priority=1,
        state="decode",
        age_s=3.0,
        num_output=30,
        promised_per_s=8.0,
        committed_per_s=9.5,
        share_in_time=0.97,
        slack_s=0.081,
        acceptance=0.64,
        window=12,
        threshold=0.3,
        num_buffered=5,
        round_trip_s=0.023,
        draft_time_s=0.01,
    )
    return msgspec.structs.replace(
        EMPTY,
        num_parked=5,
        committed_per_s=120.0,
        goodput_per_s=110.5,
        marginal_cost=0.125,
        interference=1.75,
        batch=BatchStats(
            steps_per_s=40.0,
            busy_share=0.9,
            step_time_s=0.0225,
            num_sessions=3.0,
            num_tokens=9.0,
            num_prefill=2.0,
            num_drafted={"edge": 4.0, "ngram": 1.0},
            num_plain=2.0,
        ),
        estimator=EstimatorStats(error_ratio=0.031, over_upper_share=0.04, drift=1.1),
        classes=[
            ClassStats(
                name="gold",
                tokens_per_s=8.0,
                first_token_s=1.0,
                priority=1,
                num_sessions=1,
                committed_per_s=120.0,
                goodput_per_s=110.5,
                num_tokens=200,
                num_in_time=150,
                num_ended=4,
                num_first_token_attained=4,
                num_rate_attained=1,
                num_shed=6,
                window=12.0,
            )
        ],
        devices=[
            DeviceStats(
                name="pi[bold]",
                num_sessions=1,
                idle_s=0.0,
                committed_per_s=9.5,
                acceptance=0.64,
                coverage=0.57,
                round_trip_s=0.023,
                window=12.0,
            )
        ],
        sessions=[msgspec.structs.replace(session, id=number) for number in range(40)],
    )


def drawn(stats: Stats, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        console.print(draw(stats))
    return captured.get()


def test_an_idle_server() -> None:
    said = drawn(EMPTY)
    assert "sessions 0/32" in said
    assert "no step in 10 s" in said


def test_a_busy_server() -> None:
    said = drawn(busy())
    for part in (
        "sessions 40/32, 5 parked",
        "goodput 110.5 tok/s of 120.0 committed",
        "marginal cost 0.125",
        "interference 1.75 x",
        "busy 90%: 3.0 sessions, 9.0 tokens (5.0 drafts, 2.0 prompt)",
        "estimator error 3.1%",
        "sessions (40, 10 more below)",
        "pi[bold]",
        "23 ms",
        "75%",
        "57%",
    ):
        assert part in said, part


def test_a_narrow_terminal() -> None:
    """Whose device it is, and its numbers, are whole in 60 columns."""
    said = drawn(busy(), 60)
    assert max(map(len, said.splitlines())) <= 60
    assert "…" not in said
    for part in ("pi[bold]", "gold", "rate attained", "round trip", "23 ms", "75%", "57%"):
        assert part in said, part


def answering(status: int, body: bytes) -> httpx.Client:
    return httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    )


def test_it_reads_what_the_server_wrote() -> None:
    stats = busy()
    assert look(answering(200, msgspec.json.encode(stats)), "http://x") == stats


def test_fields_of_a_newer_server_are_passed_over() -> None:
    newer = msgspec.to_builtins(EMPTY) | {"weather": "fine"}
    assert look(answering(200, msgspec.json.encode(newer)), "http://x/") == EMPTY


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (200, b'{"running": 0}', "is no wisp-server of this version"),
        (404, b"not found", "is no wisp-server of this version"),
        (503, b"draining", "out of order: draining"),
    ],
)
def test_something_else_answers(status: int, body: bytes, sentence: str) -> None:
    with pytest.raises(Unavailable, match=sentence):
        look(answering(status, body), "http://x")


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "nowhere", "http://[", "ftp://x"])
def test_nothing_answers(address: str) -> None:
    with httpx.Client() as client, pytest.raises(Unavailable, match="no wisp-server answers at"):
        look(client, address)


def test_an_address_needs_no_scheme() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, content=msgspec.json.encode(EMPTY))

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        for address in ("gpu-node:8000", "http://gpu-node:8000/", "https://gpu-node:8000"):
            assert look(client, address) == EMPTY
    bare, plain, secure = asked
    assert bare == plain == "http://gpu-node:8000/v1/stats"
    assert secure == "https://gpu-node:8000/v1/stats"


def test_q_quits_and_no_other_key_does() -> None:
    read, write = os.pipe()
    try:
        os.write(write, b"xq")
        assert quits(read, 60.0)
        assert not quits(read, 0.0)
    finally:
        os.close(write)
    assert not quits(read, 0.001)  # closed
    os.close(read)
