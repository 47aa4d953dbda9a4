"""Whether this machine keeps law 1 to the bit: looked at once, when a target has been loaded."""

from __future__ import annotations

import random

import torch

from wisp.models.layout import KEYS, ROWS
from wisp.models.slots import Item, SlotModel

_LENGTH = KEYS + ROWS  # reaches into a second block of keys, so that sums are continued
# The tokens looked at. Chosen: they take a tile of queries whole, or several of them in part.
_NUM_LAST = 8
# The sequences beside the one looked at, as far as there are slots. Chosen: a few already fill
# tiles that two of them share, and the check takes little time.
_NUM_OTHERS = 3


def is_exact(model: SlotModel) -> bool:
    """Whether some logits are the same bits in other cuts, other places and other company.

    It takes about 400 tokens of the model. It is a sample: where it fails the law does not hold,
    where it does not the construction of `wisp.models.layout` is what speaks for the law.
    """
    rng = random.Random(0)
    tokens = rng.choices(range(model.vocab_size), k=min(_LENGTH, model.max_len))
    num_last = min(_NUM_LAST, len(tokens))
    cut = len(tokens) - num_last
    truth = model.forward([Item(0, 0, tokens, num_last)])
    if cut:
        model.forward([Item(0, 0, tokens[:cut], 0)])
    singly = [model.forward([Item(0, cut + i, [tokens[cut + i]], 1)]) for i in range(num_last)]
    if not torch.equal(torch.cat(singly), truth):
        return False
    others = [
        Item(slot, 0, rng.choices(range(model.vocab_size), k=min(2 * slot + 1, model.max_len)), 1)
        for slot in range(1, min(1 + _NUM_OTHERS, model.num_slots))
    ]
    own = Item(0, cut, tokens[cut:], num_last)
    for place in range(len(others) + 1):
        logits = model.forward([*others[:place], own, *others[place:]])
        if not torch.equal(logits[place : place + num_last], truth):
            return False
    return True
