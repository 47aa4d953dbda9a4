"""Emulated edges against a real wisp-server with the predictable target."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from benchmarks.load.score import Stats
from benchmarks.load.servers import wisp_server
from benchmarks.load.target import config, make_predictable, write_model
from benchmarks.load.users import chain
from benchmarks.load.worker import Demand, Kind, Population, Setting, Worker
from benchmarks.sim.profiles import LAPTOP, WIRED
from benchmarks.sim.workload import Lengths, Workload
from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.launch import Process
from wisp.verifier.torch import TorchVerifier

SLO = Slo(tokens_per_s=4.0, first_token_s=2.0)
VOCAB_SIZE = config("small")["vocab_size"]
USERS = Population((LAPTOP,), (WIRED,), Workload(Lengths(20.0), Lengths(60.0), think_s=0.01))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("load")
    size: dict[str, Any] = {"shape": "small", "engine": "torch", "options": {}}
    with wisp_server(folder, max_sessions=16, profile_s=0.5, **size) as process:
        yield process


@pytest.fixture
async def worker(process: Process) -> AsyncIterator[Worker]:
    setting = Setting(
        grpc=f"127.0.0.1:{process.facts['grpc']}",
        url=process.url,
        vocab_size=VOCAB_SIZE,
        seed=3,
    )
    worker = Worker(setting, (0, 1))
    await worker.connect()
    yield worker
    await worker.close()


def switch(process: Process, **choice: Any) -> httpx.Response:
    return httpx.post(f"{process.url}/v1/policy", json=choice)


def policy(process: Process) -> str:
    name: str = httpx.get(f"{process.url}/v1/stats").json()["policy"]
    return name


def demand(edges: int, clients: int = 0, *, acceptance: float = 0.7) -> Demand:
    return Demand(edges, clients, USERS, SLO, acceptance, spread_s=0.1)


async def until(worker: Worker, name: str, count: int) -> Stats:
    while getattr(worker.tally.stats, name) < count:  # noqa: ASYNC110 (a tally wakes nobody)
        await asyncio.sleep(0.02)
    return worker.tally.stats


def test_the_target_chooses_the_successor_of_every_token(target: Path) -> None:
    verifier = TorchVerifier(target, max_sessions=1)
    start, length = 4000, 90
    prompt = chain(start, length, VOCAB_SIZE)
    sampling = Sampling(max_tokens=VOCAB_SIZE - length, seed=0, temperature=0.0)
    session = Session(1, prompt, sampling, SLO)
    verifier.open(session)
    for first in range(0, VOCAB_SIZE - length, 64):  # 63 drafts and a choice at a time
        draft = chain(start + length + first, min(63, session.num_remaining - 1), VOCAB_SIZE)
        seat = Seat(session, session.num_missing, draft)
        (outcome,) = verifier.step(Batch([seat]))
        session.computed(outcome.computed_after(seat))
        session.commit(outcome.tokens, 0.0)
    assert session.tokens == chain(start, VOCAB_SIZE, VOCAB_SIZE)
    assert len(set(session.tokens)) == VOCAB_SIZE


@pytest.mark.parametrize(("shape", "num_ranks"), [("8b", 1), ("32b", 1), ("70b", 2)])
def test_a_large_shape_is_certain_in_bfloat16(shape: str, num_ranks: int) -> None:
    """Of its vocabulary a part: the others' logits are those of random directions, too."""
    rows, width = 20_000, config(shape)["hidden_size"]
    embedding = torch.empty(rows + 64, width, dtype=torch.bfloat16)
    head = torch.empty_like(embedding)
    shares = zip(embedding.chunk(num_ranks), head.chunk(num_ranks), strict=True)
    for rank, share in enumerate(shares):
        weights = dict(zip(("model.embed_tokens.weight", "lm_head.weight"), share, strict=True))
        make_predictable(weights | {"model.norm.weight": torch.empty(width)}, rows, rank)
    asked = torch.arange(rows - 50, rows)
    best = (embedding[asked] @ head.T).topk(2)
    assert best.indices[:, 0].tolist() == ((asked + 1) % rows).tolist()
    assert (best.values[:, 1] < 0.2 * best.values[:, 0]).all()


async def test_a_fleet_gets_its_text_at_the_acceptance_that_was_asked(
    process: Process, worker: Worker
) -> None:
    assert switch(process, policy="sled", block_tokens=4, batch_wait_s=0.0).status_code == 200
    await worker.serve(demand(12, 2))
    stats = await until(worker, "num_examined", 800)
    assert stats.num_accepted / stats.num_examined == pytest.approx(0.7, abs=0.07)
    assert stats.num_wrong == stats.num_errors == stats.num_refused == 0


async def test_policies_are_switched_under_running_sessions(
    process: Process, worker: Worker
) -> None:
    assert switch(process, policy="sled", block_tokens=2).json()["policy"] == "sled"
    await worker.serve(demand(4))
    await until(worker, "num_examined", 20)
    for name in ("centralized", "wisp-paper", "wisp", "fcfs"):
        assert switch(process, policy=name).json()["block_tokens"] == 4  # as configured
        assert policy(process) == name
        worker.tally.window_begins(0.0)
        stats = await until(worker, "num_tokens", 50)
        assert stats.num_errors == stats.num_wrong == 0


def users(worker: Worker) -> dict[tuple[Kind, int], asyncio.Task[None]]:
    return dict(worker._users)  # nobody but the test asks a worker whom it has


async def test_more_users_leave_those_alone_that_are_there(
    process: Process, worker: Worker
) -> None:
    switch(process, policy="fcfs")
    await worker.serve(demand(2))
    before = users(worker)
    await worker.serve(demand(3, 1))
    assert before.items() <= users(worker).items()
    await worker.serve(demand(1))
    assert list(users(worker)) == [("edges", 0)]
    await worker.serve(demand(1, acceptance=0.5))
    assert users(worker)["edges", 0] is not before["edges", 0]


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"policy": "lifo"}, "Invalid enum value 'lifo'"),
        ({"policy": "sled", "lenght": 3}, "unknown field `lenght`"),
        ({"policy": "sled", "block_tokens": 99}, "window 99 exceeds the 15"),
        ({"policy": "wisp", "max_step_tokens": 9999}, "max_step_tokens 9999 exceeds the 512"),
    ],
)
def test_a_wrong_policy_is_refused(process: Process, choice: dict[str, Any], sentence: str) -> None:
    response = switch(process, **choice)
    assert response.status_code == 400
    assert sentence in response.json()["error"]["message"]


def test_a_web_page_cannot_switch_the_policy(process: Process) -> None:
    """What a browser sends across origins unasked is no JSON by its type."""
    response = httpx.post(f"{process.url}/v1/policy", content='{"policy": "sled"}')
    assert response.status_code == 415


def test_a_server_keeps_its_policy_unless_it_may_be_switched(server: Process) -> None:
    assert switch(server, policy="sled").status_code == 404
