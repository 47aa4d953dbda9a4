from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from tests.models.tiny import save_random_model
from wisp.models.check import is_exact
from wisp.models.slots import Item, SlotModel


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("qwen3"), "qwen3", num_hidden_layers=2)


@pytest.mark.parametrize(("num_slots", "max_len"), [(5, 1024), (2, 20), (1, 1)])
def test_tiles_keep_the_bits_however_little_there_is_room_for(
    directory: Path, num_slots: int, max_len: int
) -> None:
    assert is_exact(SlotModel(directory, num_slots, max_len))


@pytest.mark.parametrize(
    "depends_on",
    [
        lambda items: sum(len(item.tokens) for item in items),  # the number of rows
        lambda items: max(item.start for item in items) > 0,  # where a sequence was cut
        lambda items: [item.slot for item in items].index(0),  # the place in the row
    ],
)
def test_bits_that_depend_on_the_batch_are_noticed(
    directory: Path, depends_on: Callable[[Sequence[Item]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SlotModel(directory, 4, 256)
    forward = model.forward

    def inexact(items: Sequence[Item]) -> Tensor:
        return forward(items) * (1 + 1e-6 * depends_on(items))

    monkeypatch.setattr(model, "forward", inexact)
    assert not is_exact(model)
