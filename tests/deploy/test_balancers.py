"""A fleet behind a balancer, with the configurations that are shipped: nothing is ever lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.deploy.fleet import Fleet, Load, text_of
from tests.deploy.scripted import VOCAB_SIZE
from tests.waiting import wait_until
from wisp.config import EdgeConfig
from wisp.core.request import Request, Sampling
from wisp.errors import BadRequest
from wisp.testing.local import LocalEdge, expected_text, tokenizer

pytestmark = [
    pytest.mark.skipif(not shutil.which("haproxy"), reason="haproxy is not installed"),
    pytest.mark.timeout(600),  # a dozen servers are started, one after the other
]
NUM_EDGES = 10
ALL = (1, 2, 3)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(fleet.start, ALL))
        with fleet.balanced():
            yield fleet
    finally:
        fleet.stop()


def test_the_scripted_target_has_the_vocabulary_of_the_bundled_pair() -> None:
    assert len(tokenizer()) == VOCAB_SIZE


PROMPT = [1, 2, 3]
SAMPLING = Sampling(max_tokens=4, seed=0)
EXPECTED = expected_text(PROMPT, SAMPLING)
FIELDS = {"model": "scripted", "prompt": PROMPT, "max_tokens": 4, "seed": 0}
# So many that a hash over three replicas leaves none of them out: one run in 60,000 would.
NAMES = [f"conversation {number}" for number in range(30)]


async def where(fleet: Fleet, edge: LocalEdge, name: str) -> int:
    """The replica that answers in this conversation."""
    before = served(fleet)
    assert await text_of(edge, PROMPT, SAMPLING, name) == EXPECTED
    return await that_served(fleet, before)


def served(fleet: Fleet) -> dict[int, float]:
    return {number: fleet.num_served(number) for number in ALL}


async def that_served(fleet: Fleet, before: dict[int, float]) -> int:
    """The replica of the one text since then: it counts a text behind its last token."""
    await asyncio.to_thread(wait_until, lambda: served(fleet) != before, "a text is counted")
    after = served(fleet)
    (found,) = [number for number in ALL if after[number] != before[number]]
    assert after[found] == before[found] + 1
    return found


async def test_envoy_does_as_haproxy(fleet: Fleet, tools: Path) -> None:
    with fleet.balanced_by_envoy(tools / "envoy"):
        edge = LocalEdge(fleet.link(fleet.envoys_address))
        replicas = {name: await where(fleet, edge, name) for name in NAMES}
        assert set(replicas.values()) == set(ALL)
        assert {name: await where(fleet, edge, name) for name in NAMES} == replicas
        new = {await where(fleet, edge, "") for _ in range(12)}
        assert len(new) > 1
        url = f"https://{fleet.envoys_address}:8000/v1/completions"
        async with httpx.AsyncClient(verify=fleet.trust) as client:
            for name in NAMES[:4]:
                before = served(fleet)
                answer = await client.post(url, json=FIELDS, headers={"x-session-id": name})
                assert answer.json()["usage"]["completion_tokens"] == 4
                assert await that_served(fleet, before) == replicas[name]
        request = Request(prompt=PROMPT, sampling=SAMPLING, slo="gold")
        with pytest.raises(BadRequest, match="no SLO class 'gold'"):
            _ = [verdict async for verdict in await edge.backend.generate(request)]
        await edge.stop()


async def test_a_refusal_comes_through_with_its_sentence(fleet: Fleet) -> None:
    edge = LocalEdge(fleet.link())
    request = Request(prompt=PROMPT, sampling=SAMPLING, slo="gold")
    with pytest.raises(BadRequest, match="no SLO class 'gold'"):
        _ = [verdict async for verdict in await edge.backend.generate(request)]
    await edge.stop()


async def test_a_conversation_stays_on_its_replica(fleet: Fleet) -> None:
    """By a hash of its name: on another one while its own is away, and back on its own then."""
    edge = LocalEdge(fleet.link(), EdgeConfig(reconnect_s=120.0))
    replicas = {name: await where(fleet, edge, name) for name in NAMES}
    assert set(replicas.values()) == set(ALL)
    assert {name: await where(fleet, edge, name) for name in NAMES} == replicas

    async with httpx.AsyncClient(verify=fleet.trust, base_url=fleet.url) as client:
        for name in NAMES[:4]:
            before = served(fleet)
            headers = {"x-session-id": name}
            answer = await client.post("/v1/completions", json=FIELDS, headers=headers)
            assert answer.json()["usage"]["completion_tokens"] == 4
            assert await that_served(fleet, before) == replicas[name]
        assert (await client.get("/metrics")).status_code == 404  # operators ask each replica

    name, lost = next(item for item in replicas.items() if item[1] == 1)
    fleet.kill(lost)
    assert await text_of(edge, PROMPT, SAMPLING, name) == EXPECTED
    await asyncio.to_thread(fleet.start, lost)
    await asyncio.to_thread(fleet.wait_for, lost, "UP")
    assert await where(fleet, edge, name) == lost
    await edge.stop()


async def test_a_fleet_loses_nothing(fleet: Fleet) -> None:
    """One replica is killed, one drained, one added, and then all are restarted in turn."""
    load = Load(fleet, NUM_EDGES)

    def busy(number: int) -> bool:
        return fleet.metric(number, "wisp_sessions") >= 2

    async def each_gets_more(*numbers: int) -> None:
        before = {number: fleet.num_served(number) for number in numbers}
        await load.until(
            lambda: all(fleet.num_served(number) > before[number] + 2 for number in numbers),
            f"{numbers} get new sessions",
        )

    async def start(number: int) -> None:
        await asyncio.to_thread(fleet.start, number)
        await asyncio.to_thread(fleet.wait_for, number, "UP")

    async def drain(number: int) -> None:
        await load.until(lambda: busy(number), f"replica {number} is busy")
        assert await asyncio.to_thread(fleet.end, number) == 0

    await load.until(lambda: all(busy(number) for number in ALL), "all replicas are busy")

    # Killed: its sessions go on elsewhere. It comes back, and so does its share.
    await asyncio.to_thread(fleet.kill, 1)
    await load.until(lambda: load.num_resumes >= 2, "the texts of the lost one are resumed")
    await load.more(NUM_EDGES)
    await start(1)
    await each_gets_more(1)

    # Drained: what it has ends there, what is new goes elsewhere, and it leaves with 0.
    num_resumes = load.num_resumes
    await drain(2)
    await load.more(NUM_EDGES)
    await start(2)

    # Added.
    await asyncio.to_thread(fleet.start, 4)
    await asyncio.to_thread(fleet.add, 4)
    await asyncio.to_thread(fleet.wait_for, 4, "UP")
    await each_gets_more(4)

    # Restarted in turn.
    for number in ALL:
        await drain(number)
        await start(number)
    await each_gets_more(*ALL)
    await load.stop()
    assert load.wrong == []
    assert load.num_resumes == num_resumes  # only what was killed had to be resumed
    assert load.num_right > 4 * NUM_EDGES
