"""Linear layers whose every product has one shape, whatever the number of rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers.pytorch_utils import Conv1D

from wisp.models.batch import ROWS


class TiledLinear(nn.Module):
    """x @ weight.T + bias, ROWS rows at a time: a row's bits do not depend on how many there are.

    The weight [out, in] lies transposed in memory: the kernels read it so without packing it first,
    which pays for the tiles. A head that shares its weight with the embedding has a copy of it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.t().contiguous().t(), requires_grad=False)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]; a forward's are [1, T, in], T a multiple of ROWS."""
        if x.shape[:-1] == (1, ROWS):
            return linear(x, self.weight, self.bias)
        num_rows = x.shape[:-1].numel()
        rows = x.reshape(1, num_rows, x.shape[-1])
        if padding := -num_rows % ROWS:
            rows = pad(rows, (0, 0, 0, padding))
        num_tiles = rows.shape[1] // ROWS
        tiles = [linear(t, self.weight, self.bias) for t in rows.tensor_split(num_tiles or 1, 1)]
        return torch.cat(tiles, 1)[:, :num_rows].view(*x.shape[:-1], self.weight.shape[0])


def tile_linears(model: nn.Module) -> None:
    """Put a TiledLinear in the place of every linear layer, the head included."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, TiledLinear(child.weight.detach(), child.bias))
            elif isinstance(child, Conv1D):  # GPT-2's, which holds its weight as [in, out]
                setattr(parent, name, TiledLinear(child.weight.detach().t(), child.bias))
