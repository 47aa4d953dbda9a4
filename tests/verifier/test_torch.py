from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.models.tiny import VOCAB_SIZE, save_random_model
from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.errors import Overloaded
from wisp.verifier import torch as torch_verifier
from wisp.verifier.base import Verifier
from wisp.verifier.torch import TorchVerifier

SLO = Slo(tokens_per_s=10.0, first_token_s=1.0)
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    save_random_model(folder, "qwen3")
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    return folder


@pytest.fixture(scope="module")
def verifier(directory: Path) -> TorchVerifier:
    return TorchVerifier(directory, max_sessions=6, max_model_len=256, num_threads=1, model="m")


def sessions(seed: int, count: int) -> list[Session]:
    rng = random.Random(seed)
    return [
        Session(
            index,
            rng.choices(range(VOCAB_SIZE), k=rng.randint(1, 90)),
            Sampling(
                max_tokens=NUM_TOKENS,
                seed=rng.getrandbits(64),
                temperature=rng.choice([0.0, 0.7, 1.3]),
                top_p=rng.choice([1.0, 0.9]),
                frequency_penalty=rng.choice([0.0, 0.5]),
            ),
            SLO,
        )
        for index in range(count)
    ]


def step(verifier: Verifier, seats: list[Seat]) -> None:
    """What the engine does with a batch."""
    for seat, outcome in zip(seats, verifier.step(Batch(seats)), strict=True):
        seat.session.computed(outcome.computed_after(seat))
        if outcome.tokens:
            seat.session.commit(outcome.tokens, 0.0)


def decode(verifier: Verifier, session: Session) -> list[int]:
    """The naive loop: one token at a time, alone."""
    verifier.open(session)
    while session.finish_reason is None:
        step(verifier, [Seat(session, session.num_missing)])
    verifier.close(session)
    return session.tokens


def random_seat(session: Session, truth: list[int], rng: random.Random) -> Seat:
    """A part of what is missing, or all of it and a draft that goes wrong somewhere."""
    if session.num_missing > 1 and rng.random() < 0.4:
        return Seat(session, rng.randint(1, session.num_missing))
    length = len(session.tokens)
    draft = truth[length : length + rng.randint(0, min(6, session.num_remaining - 1))]
    if draft and rng.random() < 0.6:
        draft[rng.randrange(len(draft))] = rng.randrange(VOCAB_SIZE)
    return Seat(session, session.num_missing, draft)


@pytest.mark.parametrize("seed", range(4))
def test_random_batches_and_drafts_give_the_text_of_the_naive_loop(
    verifier: TorchVerifier, seed: int
) -> None:
    truth = [decode(verifier, session) for session in sessions(seed, 6)]
    rng = random.Random(seed)
    drafted = sessions(seed, 6)
    for session in drafted:
        verifier.open(session)
    while live := [session for session in drafted if session.finish_reason is None]:
        chosen = rng.sample(live, rng.randint(1, len(live)))
        step(verifier, [random_seat(session, truth[session.id], rng) for session in chosen])
    for session in drafted:
        verifier.close(session)
        assert session.tokens == truth[session.id]


def test_logprobs_come_with_the_tokens_that_ask_for_them(verifier: TorchVerifier) -> None:
    sampling = Sampling(max_tokens=4, seed=1, temperature=0.0, num_logprobs=2)
    asks, not_asks = Session(0, [3, 4, 5], sampling, SLO), sessions(1, 2)[1]
    verifier.open(asks)
    verifier.open(not_asks)
    seats = [Seat(asks, 3, [9, 9]), Seat(not_asks, not_asks.num_missing)]
    first, second = verifier.step(Batch(seats))
    assert first.logprobs is not None
    assert [logprob.top[0][0] for logprob in first.logprobs] == first.tokens
    assert [len(logprob.top) for logprob in first.logprobs] == [2] * len(first.tokens)
    assert second.logprobs is None
    verifier.close(asks)
    verifier.close(not_asks)


def test_a_full_verifier_refuses_and_a_closed_slot_serves_again(directory: Path) -> None:
    small = TorchVerifier(directory, max_sessions=2, max_model_len=128)
    first, second, third = sessions(2, 3)
    truth = decode(small, sessions(2, 3)[2])
    small.open(first)
    assert small.kv_used == 0.5
    small.open(second)
    with pytest.raises(Overloaded, match="all 2 sessions"):
        small.open(third)
    small.step(Batch([Seat(first, first.num_missing), Seat(second, second.num_missing)]))
    small.close(first)
    small.close(first)
    assert decode(small, third) == truth
    assert small.kv_used == 0.5


@pytest.fixture(scope="module")
def few_slots(directory: Path) -> TorchVerifier:
    return TorchVerifier(
        directory, max_sessions=6, max_model_len=128, num_slots=2, host_kv_bytes=1 << 24
    )


def moved(verifier: TorchVerifier, session: Session, *, park: bool) -> int:
    """What the engine does to park a session, or to load it."""
    (count,) = (verifier.park if park else verifier.load)([session])
    if count or park:
        session.moved(count, parked=park and count > 0)
    return count


@pytest.mark.parametrize("seed", range(3))
def test_texts_are_the_same_when_sessions_are_parked_at_random(
    few_slots: TorchVerifier, seed: int
) -> None:
    rng = random.Random(seed)
    truths = [decode(few_slots, session) for session in sessions(seed, 6)]
    live = sessions(seed, 6)
    for session in live:
        few_slots.open(session)
    texts = {session.id: session for session in live}
    while live:
        resident = [session for session in live if session.resident]
        if len(resident) == 2 and rng.random() < 0.5:
            assert moved(few_slots, rng.choice(resident), park=True)
        outside = [session for session in live if not session.resident]
        memory = few_slots.memory()
        assert memory
        if outside and memory.num_free:
            session = rng.choice(outside)
            if session.parked:
                assert moved(few_slots, session, park=False)
            else:
                step(few_slots, [Seat(session, rng.randint(1, session.num_missing))])
        step(few_slots, [Seat(s, s.num_missing) for s in live if s.resident])
        for session in [session for session in live if session.finish_reason]:
            few_slots.close(session)
            live.remove(session)
    assert [texts[number].tokens for number in range(6)] == truths
    assert few_slots.kv_used == 0.0


def test_host_memory_that_is_full_takes_no_more(directory: Path) -> None:
    verifier = TorchVerifier(directory, max_sessions=3, max_model_len=64, num_slots=1)
    (session,) = sessions(3, 1)
    truth = decode(verifier, sessions(3, 1)[0])
    verifier.open(session)
    step(verifier, [Seat(session, session.num_missing)])
    assert moved(verifier, session, park=True) == 0
    assert not session.parked
    while session.finish_reason is None:
        step(verifier, [Seat(session, session.num_missing)])
    verifier.close(session)
    assert session.tokens == truth


def test_facts_are_read_from_the_directory(verifier: TorchVerifier, directory: Path) -> None:
    facts = verifier.facts
    assert facts.vocab_size == VOCAB_SIZE
    assert facts.max_model_len == 256
    assert facts.eos_token_ids == (2, 7)
    assert facts.model == "m"
    assert TorchVerifier(directory, max_sessions=1).facts.model == directory.name


def test_a_machine_that_keeps_the_bits_is_told_so(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert TorchVerifier(directory, max_sessions=3, max_model_len=256).facts.exact
    assert "near-ties" not in caplog.text


def test_a_machine_that_does_not_keep_the_bits_is_warned_of(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_verifier, "is_exact", lambda model: False)
    assert TorchVerifier(directory, max_sessions=1, max_model_len=64).facts.exact is False
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage().startswith("texts may differ in near-ties on this machine (")
