"""Law 1 on a processor that is worse than any: the bits of a product depend on all of its sizes."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.tiny import VOCAB_SIZE, save_random_model
from wisp.models.slots import Item, SlotModel

NUM_SLOTS = 5
ALONE = NUM_SLOTS - 1
LENGTH = 300  # three blocks of keys
# What torch comes down to when it multiplies matrices; those with "add" add the product to others.
PRODUCTS = {"mm", "bmm", "mv", "dot", "linear", "addmm", "addmm_", "addmv", "baddbmm", "baddbmm_"}


class BitsDependOnSizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Each product is off by a factor that all of its sizes and the number of threads decide."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # what is made of products, as `linear`, shows them
            parts = function.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        name = function.overloadpacket.__name__
        if name not in PRODUCTS:
            return function(*args, **kwargs)
        self.seen.add(name)
        sizes = [list(value.shape) for value in args if isinstance(value, Tensor)]
        key = f"{name} {sizes} {torch.get_num_threads()}"
        error = 1e-4 * (zlib.crc32(key.encode()) / 2**32)
        if "add" not in name:
            result: Tensor = function(*args, **kwargs)
            return result.mul_(1 + error)
        # Only the product is off: what it is added to stays as it is where the product is zero.
        off = torch.matmul(args[1], args[2]) * (kwargs.get("alpha", 1) * error)
        result = function(*args, **kwargs)
        return result.add_(off)


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SlotModel:
    directory = save_random_model(
        tmp_path_factory.mktemp(request.param), request.param, num_hidden_layers=2
    )
    return SlotModel(directory, NUM_SLOTS, num_threads=1)


def sequence(seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB_SIZE), k=LENGTH)


def test_the_stand_in_changes_bits_with_the_number_of_rows() -> None:
    """Otherwise the test below would show nothing."""
    x, weight = torch.ones(8, 4), torch.ones(4, 4)
    with torch.inference_mode(), BitsDependOnSizes() as products:
        assert not torch.equal((x @ weight)[:4], x[:4] @ weight)
        assert not torch.equal(torch.nn.functional.linear(x, weight)[:1], x[:1] @ weight)
    assert products.seen == {"mm"}


@pytest.mark.parametrize("seed", range(3))
def test_no_product_has_a_size_that_depends_on_the_batch_or_the_cuts(
    model: SlotModel, seed: int
) -> None:
    rng = random.Random(seed)
    sequences = [sequence(rng.getrandbits(32)) for _ in range(ALONE)]
    with BitsDependOnSizes() as products:
        truth = [model.forward([Item(ALONE, 0, tokens, LENGTH)]) for tokens in sequences]
        done = [0] * len(sequences)
        while left := [i for i in range(len(sequences)) if done[i] < LENGTH]:
            chosen = rng.sample(left, rng.randint(1, len(left)))
            items = []
            for i in chosen:
                part = sequences[i][done[i] : done[i] + rng.choice([1, 2, 5, 17, 140])]
                items.append(Item(i, done[i], part, rng.randint(0, len(part))))
            logits = model.forward(items)
            expected = []
            for item in items:
                end = done[item.slot] = item.start + len(item.tokens)
                expected.append(truth[item.slot][end - item.num_logits : end])
            assert torch.equal(logits, torch.cat(expected))
    assert products.seen == {"mm", "bmm", "baddbmm", "baddbmm_"}  # nothing was overlooked


def test_a_sequence_that_grows_by_one_token_at_a_time_gives_the_same_bits(model: SlotModel) -> None:
    tokens = sequence(7)[:40]
    with BitsDependOnSizes():
        truth = model.forward([Item(ALONE, 0, tokens, len(tokens))])
        rows = [model.forward([Item(0, i, [token], 1)]) for i, token in enumerate(tokens)]
        assert torch.equal(torch.cat(rows), truth)
