"""What a line shows of a padded generation is the same, whatever its drafts are worth."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.faults.network import Call, MemoryLink, Replica
from benchmarks.faults.virtual import run
from wisp import wire
from wisp.access.gate import Gate
from wisp.core.drafts import DraftBlock
from wisp.core.request import Request, Sampling
from wisp.edge.pending import Pending
from wisp.errors import HandshakeError, ProtocolError
from wisp.padding import Padding, Ticks, is_cover
from wisp.server.servicer import WispServicer
from wisp.testing.local import LocalEdge, LocalServer, expected_text
from wisp.v1 import wisp_pb2 as pb

# As docs/operating.md advises.
PADDING = Padding(message_bytes=512, interval_s=0.05)
REQUEST = Request(prompt=[1, 2, 3], sampling=Sampling(max_tokens=100, seed=7))
Sent = list[tuple[float, int]]  # when, and of how many bytes


def recorded(patch: pytest.MonkeyPatch) -> tuple[Sent, Sent]:
    """What the edge and the server write, beginning with `Open` and `Opened`."""
    up: Sent = []
    down: Sent = []
    write = Call.write

    async def recording(self: Call, message: Any) -> None:
        sent = down if isinstance(message, pb.ServerMessage) else up
        sent.append((asyncio.get_running_loop().time(), message.ByteSize()))
        await write(self, message)

    patch.setattr(Call, "write", recording)
    return up, down


async def generate(
    acceptance: float, edge_s: Padding | None, server_s: Padding | None
) -> list[int]:
    """The text that an edge gets."""
    server = LocalServer(step_s=0.01)
    replica = Replica("one")
    replica.servicer = WispServicer(server.service, server.telemetry, Gate(), 30.0, server_s)
    link = MemoryLink([replica], "edge", Random(1), tuple, edge_s)
    edge = LocalEdge(link, seed=REQUEST.sampling.seed, acceptance=acceptance)
    try:
        generation = await edge.backend.generate(REQUEST)
        tokens = [token async for verdict in generation for token in verdict.tokens]
        await generation.aclose()
    finally:
        await edge.stop()
        await server.stop()
    return tokens


def text_of(body: Coroutine[Any, Any, list[int]]) -> list[int]:
    return run(lambda: body)


@pytest.mark.parametrize("acceptance", [0.0, 0.5, 1.0])
def test_sizes_and_times_are_the_same_whatever_is_accepted(
    acceptance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = recorded(monkeypatch)
    tokens = text_of(generate(acceptance, PADDING, PADDING))
    assert tokens == expected_text(REQUEST.prompt, REQUEST.sampling)
    for way in sent:
        assert {size for _, size in way[1:]} == {PADDING.message_bytes}
        start_s = way[0][0]
        times = [(time_s - start_s) / PADDING.interval_s for time_s, _ in way[1:]]
        assert times == pytest.approx(range(1, len(way)))
        assert len(way) > 10


def test_without_padding_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    _, down = recorded(monkeypatch)
    assert text_of(generate(0.5, None, None)) == expected_text(REQUEST.prompt, REQUEST.sampling)
    assert len({size for _, size in down[1:]}) > 1


def test_an_edge_that_pads_refuses_a_server_that_does_not() -> None:
    with pytest.raises(HandshakeError, match="padding"):
        text_of(generate(0.5, PADDING, None))


def test_a_server_that_pads_serves_an_edge_that_does_not() -> None:
    expected = expected_text(REQUEST.prompt, REQUEST.sampling)
    assert text_of(generate(0.5, None, PADDING)) == expected


def test_an_edge_that_takes_no_padding_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an older release, which would take a message of padding alone for a fault."""
    encode = wire.encode_open

    def older(request: Request, hello: wire.Hello) -> pb.EdgeMessage:
        message = encode(request, hello)
        message.open.padding = False
        return message

    monkeypatch.setattr(wire, "encode_open", older)
    _, down = recorded(monkeypatch)
    text_of(generate(0.5, None, PADDING))
    assert PADDING.message_bytes not in {size for _, size in down}


def test_a_flood_of_padding_ends_its_own_session() -> None:
    async def body() -> None:
        server = LocalServer(step_s=0.01)
        replica = Replica("one")
        replica.servicer = WispServicer(server.service, server.telemetry, Gate(), 30.0, PADDING)
        call = Call(replica, (), "edge", Random(1))
        hello = wire.Hello(tokenizer_fingerprint=server.service.tokenizer.fingerprint)
        await call.write(wire.encode_open(REQUEST, hello))
        for _ in range(1000):
            await call.write(PADDING.pad(pb.EdgeMessage()))
        with pytest.raises(Exception, match="padding alone"):
            async for _ in call:
                pass
        await server.stop()

    run(body)


@given(st.integers(0, 400), st.integers(8, 700))
def test_every_message_is_padded_to_a_multiple(num_bytes: int, message_bytes: int) -> None:
    padding = Padding(message_bytes, 0.05)
    message = pb.EdgeMessage(draft=pb.Draft(acceptance=bytes(num_bytes)))
    size = message.ByteSize()
    padded = padding.pad(message)
    assert padded.ByteSize() % message_bytes == 0
    assert padded.ByteSize() < size + 2 * message_bytes
    assert not is_cover(padded)
    assert pb.EdgeMessage.FromString(padded.SerializeToString()).draft == message.draft
    cover = padding.pad(pb.EdgeMessage())
    assert is_cover(cover)
    assert cover.ByteSize() == message_bytes


def block(epoch: int, position: int, num_tokens: int, **more: Any) -> DraftBlock:
    return DraftBlock(epoch, position, [9] * num_tokens, [1.0] * num_tokens, **more)


def test_blocks_that_follow_one_another_go_in_one_message_while_they_fit() -> None:
    pending = Pending(Padding(128, 0.05))
    for position in range(100):
        pending.add(block(1, position, 1, draft_time_s=0.25, complete=position == 99))
    found = []
    while not is_cover(message := pending.take()):
        assert message.ByteSize() == 128
        found.append(wire.decode_draft(message))
    assert 1 < len(found) < 5
    assert [each.position for each in found] == [
        sum(len(before.tokens) for before in found[:number]) for number in range(len(found))
    ]
    assert sum(len(each.tokens) for each in found) == 100
    assert sum(each.draft_time_s for each in found) == 25.0
    assert [each.complete for each in found] == [False] * (len(found) - 1) + [True]


def test_what_waits_of_a_dead_epoch_is_not_sent() -> None:
    pending = Pending(PADDING)
    pending.add(block(1, 10, 2))
    pending.add(block(2, 11, 1, parent=1))  # a fork lives beside its parent
    pending.add(block(3, 11, 1))
    assert wire.decode_draft(pending.take()) == block(3, 11, 1)
    assert is_cover(pending.take())


def test_late_work_leaves_ticks_out_and_moves_none() -> None:
    async def body() -> list[float]:
        loop = asyncio.get_running_loop()
        start_s, ticks, times = loop.time(), Ticks(1.0), []
        for late_s in (2.5, 0.0, 0.0):
            await ticks.wait()
            times.append(loop.time() - start_s)
            await asyncio.sleep(late_s)
        return times

    assert run(body) == pytest.approx([1.0, 4.0, 5.0])


def test_a_message_of_nothing_at_all_is_still_refused() -> None:
    assert not is_cover(pb.EdgeMessage())
    with pytest.raises(ProtocolError):
        wire.decode_draft(pb.EdgeMessage())
