from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.models.tiny import VOCAB_SIZE, save_random_model
from wisp.config import TINY, EdgeConfig, load
from wisp.core.request import Sampling
from wisp.edge.drafter.base import DraftJob
from wisp.edge.drafter.load import load_drafter
from wisp.edge.drafter.propose import propose
from wisp.edge.drafter.transformers import TransformersDrafter
from wisp.errors import ConfigError, Overloaded
from wisp.models.slots import SlotModel
from wisp.models.tokenizer import Tokenizer
from wisp.sampling.philox import gumbel_numpy
from wisp.testing.drafter import ScriptedDrafter


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("draft"), "llama", num_hidden_layers=2)


@pytest.fixture
def drafter(directory: Path) -> TransformersDrafter:
    return TransformersDrafter(directory, max_sessions=3, num_threads=1)


@pytest.fixture(scope="module")
def plain(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def next_token(plain: Any, tokens: list[int]) -> int:
    with torch.inference_mode():
        return int(plain(torch.tensor([tokens])).logits[0, -1].argmax())


def test_drafts_are_the_models_whatever_was_drafted_before(
    drafter: TransformersDrafter, plain: Any
) -> None:
    rng = random.Random(0)
    texts = {key: rng.choices(range(VOCAB_SIZE), k=10 + key) for key in range(3)}
    for key in texts:
        drafter.open(key)
    for _ in range(25):
        for tokens in texts.values():
            if rng.random() < 0.4:  # a rejection: back to somewhere, and on with another token
                del tokens[rng.randint(1, len(tokens)) :]
                tokens.append(rng.randrange(VOCAB_SIZE))
        keys = rng.sample(sorted(texts), rng.randint(1, 3))
        for key, proposal in zip(
            keys, drafter.step([DraftJob(key, texts[key]) for key in keys]), strict=True
        ):
            assert proposal.token == next_token(plain, texts[key])
            texts[key].append(proposal.token)


def test_only_new_tokens_are_computed_and_long_prompts_in_chunks(
    drafter: TransformersDrafter, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[list[int]] = []
    # What is computed shows nowhere but in the model's own calls.
    forward = drafter._model.forward

    def counted(items: Any) -> Tensor:
        computed.append([len(item.tokens) for item in items])
        return forward(items)

    monkeypatch.setattr(drafter._model, "forward", counted)  # see above
    tokens = random.Random(1).choices(range(VOCAB_SIZE), k=1000)
    drafter.open(1)
    drafter.open(2)
    drafter.step([DraftJob(1, tokens), DraftJob(2, tokens[:3])])
    assert computed == [[512], [488, 3]]
    computed.clear()
    drafter.step([DraftJob(1, tokens)])  # the same again: its last token is all that is needed
    drafter.step([DraftJob(1, [*tokens, 5])])
    drafter.step([DraftJob(1, [*tokens[:990], 6])])
    assert computed == [[1], [1], [1]]


def test_a_key_opened_again_starts_afresh(drafter: TransformersDrafter, plain: Any) -> None:
    for tokens in ([1, 2, 3, 4], [1, 2, 9]):
        drafter.open(7)
        assert drafter.step([DraftJob(7, tokens)])[0].token == next_token(plain, tokens)
        drafter.close(7)
    drafter.close(7)


def test_branches_of_one_sequence_are_drafted_in_one_step(directory: Path, plain: Any) -> None:
    """Whichever branches are in it, and whatever other sequences borrow."""
    drafter = TransformersDrafter(directory, max_sessions=2, max_branches=3, num_threads=1)
    rng = random.Random(4)
    branches = {key: [rng.choices(range(VOCAB_SIZE), k=20)] for key in range(2)}
    for key in branches:
        drafter.open(key)
    for _ in range(30):
        jobs = [(0, rng.choice(branches[0])), (1, rng.choice(branches[1]))]
        for _ in range(rng.randrange(3)):
            key = rng.randrange(2)
            jobs.append((key, rng.choice(branches[key])))
        proposals = drafter.step([DraftJob(*job) for job in jobs])
        for (key, tokens), proposal in zip(jobs, proposals, strict=True):
            assert proposal.token == next_token(plain, tokens)
            others = (proposal, *proposal.alternatives)
            branches[key].append([*tokens, rng.choice(others).token])
        if rng.random() < 0.2:
            key = rng.randrange(2)  # a verdict: what was chosen goes on alone
            branches[key] = [branches[key][-1]]
    drafter.close(0)
    drafter.open(0)
    assert drafter.step([DraftJob(0, [1, 2, 3])])[0].token == next_token(plain, [1, 2, 3])


def test_a_branch_computes_only_what_no_other_has(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = TransformersDrafter(directory, max_sessions=1, max_branches=2, num_threads=1)
    computed: list[list[int]] = []
    # What is computed shows nowhere but in the model's own calls.
    forward = drafter._model.forward

    def counted(items: Any) -> Tensor:
        computed.append([len(item.tokens) for item in items])
        return forward(items)

    monkeypatch.setattr(drafter._model, "forward", counted)  # see above
    drafter.open(1)
    tokens = list(range(1, 41))
    drafter.step([DraftJob(1, tokens)])
    drafter.step([DraftJob(1, [*tokens, 5]), DraftJob(1, [*tokens, 6])])
    drafter.step([DraftJob(1, [*tokens, 6, 7]), DraftJob(1, [*tokens, 5, 8])])
    assert computed == [[40], [1, 1], [1, 1]]


def test_a_full_drafter_refuses(drafter: TransformersDrafter) -> None:
    for key in range(3):
        drafter.open(key)
    with pytest.raises(Overloaded, match="all 3"):
        drafter.open(3)
    drafter.close(0)
    drafter.open(3)


def test_a_proposal_describes_its_distribution() -> None:
    logits = torch.tensor([[0.0, 0.0, 2.0, float("-inf")], [1.0, 3.0, 1.0, 1.0]])
    logits[0, 3] = -1e15
    first, second = propose(logits.numpy(), [DraftJob(1, [0]), DraftJob(2, [0])])
    assert (first.token, second.token) == (2, 1)
    total = 2 + torch.tensor(2.0).exp().item()
    assert first.confidence == pytest.approx((total - 2) / total, rel=1e-5)
    assert first.margin == pytest.approx((total - 3) / total, rel=1e-5)
    assert second.spread == pytest.approx(3**0.5 / 2)
    logprobs = logits[1].log_softmax(-1)
    assert second.entropy == pytest.approx(-(logprobs.exp() * logprobs).sum().item(), rel=1e-5)


def test_alternatives_are_what_is_likeliest_without_the_better_ones() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0, -2.0]])
    (proposal,) = propose(logits.numpy(), [DraftJob(1, [0])])
    assert [other.token for other in proposal.alternatives] == [3, 2, 0]
    probabilities = logits[0].softmax(-1).tolist()
    left = 1.0 - probabilities[1]
    assert proposal.alternatives[0].confidence == pytest.approx(probabilities[3] / left, rel=1e-5)
    left -= probabilities[3]
    assert proposal.alternatives[1].confidence == pytest.approx(probabilities[2] / left, rel=1e-5)
    assert proposal.alternatives[1].margin == pytest.approx(
        (probabilities[2] - probabilities[0]) / left, rel=1e-5
    )


@pytest.mark.parametrize("vocab_size", [60, 20_000])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
def test_candidates_are_ranked_with_the_noise_of_the_choice(
    temperature: float, vocab_size: int
) -> None:
    chance = np.random.default_rng(3)
    logits = chance.normal(0.0, 3.0, (5, vocab_size)).astype(np.float32)
    logits[3:] *= 3.0  # some rows that are sure of themselves
    samplings = [
        Sampling(max_tokens=9, seed=2**64 - 1 - i, temperature=temperature) for i in range(5)
    ]
    jobs = [DraftJob(i, range(40 + i), sampling) for i, sampling in enumerate(samplings)]
    seeds = np.array([sampling.seed for sampling in samplings], np.uint64)
    noise = gumbel_numpy(seeds, np.arange(40, 45), vocab_size)
    order = np.argsort(-(logits + np.float32(temperature) * noise), axis=1)
    for proposal, best in zip(propose(logits, jobs), order.tolist(), strict=True):
        assert proposal.token == best[0]
        assert 0.0 <= proposal.margin <= proposal.confidence <= 1.0
        if vocab_size < 8192 or temperature == 0.0:  # else alternatives may be missed, rarely
            assert [other.token for other in proposal.alternatives] == best[1:4]


def test_the_scripted_drafter_is_right_as_often_as_asked() -> None:
    def truth(key: int, position: int, previous: int) -> int:
        return (previous + position) % 4096

    steps: list[int] = []
    drafter = ScriptedDrafter(truth, acceptance=0.7, on_step=lambda jobs: steps.append(len(jobs)))
    drafter.open(1)
    jobs = [DraftJob(1, list(range(length))) for length in range(1, 1001)]
    tokens = [drafter.step([job])[0].token for job in jobs]
    right = [
        token == truth(1, len(j.tokens), j.tokens[-1])
        for token, j in zip(tokens, jobs, strict=True)
    ]
    assert 0.65 < sum(right) / len(right) < 0.75
    assert tokens == [drafter.step([job])[0].token for job in jobs]
    assert len(steps) == 2000


def test_the_scripted_drafters_alternatives_cover_as_much_as_asked() -> None:
    drafter = ScriptedDrafter(
        lambda key, position, previous: 7, acceptance=0.4, coverage=(0.5, 0.2)
    )
    drafter.open(1)
    ranks = []
    for length in range(1, 2001):
        (proposal,) = drafter.step([DraftJob(1, list(range(length)))])
        tokens = [each.token for each in (proposal, *proposal.alternatives)]
        assert len(set(tokens)) == 3
        if tokens[0] != 7:
            ranks.append(tokens.index(7) if 7 in tokens else None)
    assert 0.45 < ranks.count(1) / len(ranks) < 0.55
    assert 0.16 < ranks.count(2) / len(ranks) < 0.24


def test_weights_of_8_bits_draft_nearly_what_those_of_32_do() -> None:
    drafters = [
        TransformersDrafter(TINY / "draft", max_sessions=1, max_model_len=128, dtype=dtype)
        for dtype in ("float32", "int8")
    ]
    for drafter in drafters:
        drafter.open(0)
    rng = random.Random(0)
    tokens = [rng.randrange(4000) for _ in range(4)]
    same = 0
    for _ in range(100):
        ours, theirs = [d.step([DraftJob(0, tokens)])[0] for d in drafters]
        same += ours.token == theirs.token
        assert ours.confidence == pytest.approx(theirs.confidence, abs=0.15)
        tokens.append(ours.token)
    assert same >= 85  # some are near-ties


def test_a_target_has_no_weights_of_8_bits() -> None:
    with pytest.raises(ConfigError, match="int8 is for drafters on a CPU"):
        SlotModel(TINY / "target", 1, 64, dtype="int8")


def parking_drafter(directory: Path, num_tokens: int) -> TransformersDrafter:
    """One generation at once; so many tokens of others are kept."""
    num_bytes = num_tokens * kv_bytes(directory)
    return TransformersDrafter(directory, max_sessions=1, num_threads=1, host_kv_bytes=num_bytes)


def kv_bytes(directory: Path) -> int:
    """Of a token."""
    return SlotModel(directory, 1).kv_bytes


def num_computed(drafter: TransformersDrafter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the tokens of each forward."""
    computed: list[int] = []
    forward = drafter._model.forward  # what is computed shows nowhere else

    def counted(items: Any) -> Tensor:
        computed.append(sum(len(item.tokens) for item in items))
        return forward(items)

    monkeypatch.setattr(drafter._model, "forward", counted)  # see above
    return computed


def test_conversations_that_take_turns_are_not_computed_again(
    directory: Path, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than the drafter has room for at once, and their drafts are the same."""
    drafter = parking_drafter(directory, 3 * 400)
    rng = random.Random(5)
    texts = {key: rng.choices(range(VOCAB_SIZE), k=100) for key in range(3)}
    computed = num_computed(drafter, monkeypatch)
    for turn in range(3):
        for key, tokens in texts.items():
            computed.clear()
            drafter.open(key)
            for _ in range(4):
                (proposal,) = drafter.step([DraftJob(key, tokens)])
                assert proposal.token == next_token(plain, tokens)
                tokens.append(proposal.token)
            drafter.close(key)
            # Of the turn before all is there but the last draft, which nothing was drafted behind.
            assert sum(computed) == (100 + 3 if turn == 0 else 1 + 40 + 3)
            tokens += rng.choices(range(VOCAB_SIZE), k=40)
    assert drafter.parked.num_bytes <= 3 * 400 * kv_bytes(directory)


def test_a_conversation_that_goes_on_otherwise_keeps_what_is_common(
    directory: Path, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = parking_drafter(directory, 1000)
    shared = random.Random(6).choices(range(VOCAB_SIZE), k=80)
    computed = num_computed(drafter, monkeypatch)
    for number, more in enumerate(([1, 2, 3], [4, 5], [1, 2, 6])):
        computed.clear()
        drafter.open(number)
        tokens = [*shared, *more]
        assert drafter.step([DraftJob(number, tokens)])[0].token == next_token(plain, tokens)
        drafter.close(number)
        assert sum(computed) <= (83 if number == 0 else 3)


def test_what_was_used_longest_ago_gives_way(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = parking_drafter(directory, 100)
    rng = random.Random(7)
    first, second, long = (rng.choices(range(VOCAB_SIZE), k=k) for k in (40, 50, 120))
    computed = num_computed(drafter, monkeypatch)

    def draft(tokens: list[int]) -> int:
        computed.clear()
        drafter.open(0)
        drafter.step([DraftJob(0, tokens)])
        drafter.close(0)
        assert drafter.parked.num_bytes <= 100 * kv_bytes(directory)
        return sum(computed)

    assert [draft(first), draft(second)] == [40, 50]
    assert [draft(first), draft(second)] == [1, 1]
    assert [draft(first), draft(long)] == [1, 120]  # which is too long to be kept
    assert draft(second) == 1
    assert draft(rng.choices(range(VOCAB_SIZE), k=45)) == 45  # in place of the first
    assert [draft(first), draft(first)] == [40, 1]


def test_room_is_free_again_where_nothing_can_be_kept(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drafter = parking_drafter(directory, 100)

    def fails(self: SlotModel, slot: int, end: int) -> list[Tensor]:
        raise MemoryError

    monkeypatch.setattr(SlotModel, "save", fails)
    for _ in range(2):  # there is room for one at once
        drafter.open(0)
        drafter.step([DraftJob(0, list(range(50)))])
        drafter.close(0)
    assert "cannot be kept for a next turn" in caplog.text
    assert drafter.parked.num_bytes == 0


def test_nothing_is_kept_where_no_memory_is_given(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = TransformersDrafter(directory, max_sessions=1, num_threads=1)
    computed = num_computed(drafter, monkeypatch)
    for _ in range(2):
        drafter.open(0)
        drafter.step([DraftJob(0, list(range(50)))])
        drafter.close(0)
    assert computed == [50, 50]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--engine=llama"], "the engine 'llama' drafts with a GGUF file"),
        (["--engine=transformers", "--draft=a.gguf"], "with a Hugging Face directory, not with a"),
        (["--drafter.options", "enforce_eager=true"], "set 'engine' to vllm"),
    ],
)
def test_an_engine_that_does_not_suit_is_refused(flags: list[str], sentence: str) -> None:
    config = load(EdgeConfig, flags, "wisp-edge")
    with pytest.raises(ConfigError, match=sentence):
        load_drafter(config, Tokenizer(TINY / "target"))


def test_a_site_without_vllm_is_told_what_to_install() -> None:
    """By the drafter's process, which here finds none."""
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    config = load(EdgeConfig, ["--engine=vllm"], "wisp-edge")
    with pytest.raises(ConfigError, match=r"install wisp-serving\[vllm\]"):
        load_drafter(config, Tokenizer(TINY / "target"))
