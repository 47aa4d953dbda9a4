from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.models.tiny import VOCAB_SIZE, save_random_model
from wisp.config import TINY
from wisp.errors import ConfigError
from wisp.models.slots import Item, SlotModel

NUM_SLOTS = 9
ALONE = NUM_SLOTS - 1  # the slot in which whole sequences are computed at once


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def model(directory: Path) -> SlotModel:
    return SlotModel(directory, NUM_SLOTS, num_threads=1)


@pytest.fixture(scope="module")
def plain(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def sequence(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB_SIZE), k=length)


def whole(model: SlotModel, tokens: list[int]) -> Tensor:
    return model.forward([Item(ALONE, 0, tokens, len(tokens))])


@pytest.mark.parametrize("length", [1, 2, 5, 63, 64, 65, 300, 1024])
def test_logits_are_those_of_plain_transformers(model: SlotModel, plain: Any, length: int) -> None:
    tokens = sequence(length, length)
    with torch.inference_mode():
        expected = plain(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(whole(model, tokens), expected, rtol=1e-4, atol=1e-4)


def test_the_greedy_text_is_that_of_generate(model: SlotModel, plain: Any) -> None:
    prompt = sequence(1, 20)
    truth = plain.generate(
        torch.tensor([prompt]), max_new_tokens=40, do_sample=False, eos_token_id=None
    )[0].tolist()
    tokens, start = list(prompt), 0
    while len(tokens) < len(truth):
        logits = model.forward([Item(0, start, tokens[start:], 1)])
        start = len(tokens)
        tokens.append(int(logits.argmax()))
    assert tokens == truth


@pytest.mark.parametrize("seed", range(4))
def test_logits_do_not_depend_on_the_batch_nor_on_the_cuts(model: SlotModel, seed: int) -> None:
    """Law 1 on the CPU: the same bits, not nearly the same numbers."""
    rng = random.Random(seed)
    sequences = [sequence(rng.getrandbits(32), rng.choice([3, 90, 270, 600])) for _ in range(8)]
    truth = [whole(model, tokens) for tokens in sequences]
    done = [0] * len(sequences)
    while left := [i for i, tokens in enumerate(sequences) if done[i] < len(tokens)]:
        items: list[Item] = []
        for i in rng.sample(left, rng.randint(1, len(left))):
            count = rng.choice([1, 1, 2, 3, 5, 9, 17, 64, rng.randint(1, 512)])
            part = sequences[i][done[i] : done[i] + count]
            items.append(Item(i, done[i], part, rng.randint(1, len(part))))
        logits = model.forward(items)
        expected = []
        for item in items:
            end = done[item.slot] = item.start + len(item.tokens)
            expected.append(truth[item.slot][end - item.num_logits : end])
        assert torch.equal(logits, torch.cat(expected))


def test_the_bundled_target_gives_the_same_bits_alone_and_among_others() -> None:
    model = SlotModel(TINY / "target", 17, 512, num_threads=1)
    sequences = [sequence(seed, 150) for seed in range(16)]
    truth = [model.forward([Item(16, 0, tokens, 150)]) for tokens in sequences]
    model.forward([Item(i, 0, sequences[i][: 120 + i], 0) for i in range(16)])
    for k in (0, 4):
        seats = [Item(i, 120 + i, sequences[i][120 + i : 121 + i + k], k + 1) for i in range(16)]
        logits = model.forward(seats)
        assert torch.equal(logits, torch.cat([model.forward([seat]) for seat in seats]))
        rows = [truth[i][120 + i : 121 + i + k] for i in range(16)]
        assert torch.equal(logits, torch.cat(rows))


def test_bits_hold_with_several_threads(directory: Path) -> None:
    before = torch.get_num_threads()
    try:
        model = SlotModel(directory, 2, num_threads=2)
        tokens = sequence(5, 700)
        truth = model.forward([Item(0, 0, tokens, 700)])
        parts = [(0, 511), (511, 512), (512, 517), (517, 700)]
        logits = [model.forward([Item(1, a, tokens[a:b], b - a)]) for a, b in parts]
        assert torch.equal(torch.cat(logits), truth)
    finally:
        torch.set_num_threads(before)


def test_going_back_overwrites(model: SlotModel) -> None:
    tokens = sequence(2, 50)
    truth = whole(model, tokens)
    model.forward([Item(0, 0, tokens[:30] + sequence(3, 15), 1)])  # 15 drafts, all rejected
    logits = model.forward([Item(0, 30, tokens[30:], 20)])
    assert torch.equal(logits, truth[30:])


def test_a_slot_is_reused_without_a_trace(model: SlotModel) -> None:
    model.forward([Item(1, 0, sequence(4, 400), 0)])
    tokens = sequence(5, 12)
    logits = model.forward([Item(1, 0, tokens, 12)])
    assert torch.equal(logits, whole(model, tokens))


def test_logits_come_in_the_order_of_the_items(model: SlotModel) -> None:
    first, second = sequence(6, 10), sequence(7, 14)
    logits = model.forward([Item(5, 0, first, 2), Item(2, 0, second, 0), Item(3, 0, second, 1)])
    assert torch.equal(logits, torch.cat([whole(model, first)[-2:], whole(model, second)[-1:]]))


@pytest.mark.parametrize(
    "items",
    [
        [],
        [Item(0, 0, [1], 1), Item(0, 1, [1], 1)],
        [Item(0, 0, [], 0)],
        [Item(0, 0, [1], 2)],
        [Item(NUM_SLOTS, 0, [1], 1)],
        [Item(0, 1020, [1] * 5, 1)],
    ],
)
def test_items_that_cannot_be_computed_are_refused(model: SlotModel, items: list[Item]) -> None:
    with pytest.raises(ValueError, match=r"slot|item|forward"):
        model.forward(items)


def test_a_missing_directory_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no model in"):
        SlotModel(tmp_path / "absent", 1)


def test_a_sliding_window_shorter_than_the_sequences_is_refused(tmp_path: Path) -> None:
    save_random_model(
        tmp_path, "qwen3", use_sliding_window=True, sliding_window=128, max_window_layers=1
    )
    with pytest.raises(ConfigError, match="sees 128 tokens only"):
        SlotModel(tmp_path, 1)
    assert SlotModel(tmp_path, 1, max_len=128).max_len == 128
