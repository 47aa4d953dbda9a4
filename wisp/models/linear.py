"""Linear layers whose every product has one shape, whatever the number of rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from wisp.models.batch import ROWS


class TiledLinear(nn.Module):
    """x @ weight + bias, ROWS rows at a time: a row's bits do not depend on how many there are.

    The weight lies transposed, [in, out]: the kernels read it so without packing it first, which
    pays for the tiles. A head that shares its weight with the embedding has a copy of it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]; a forward's are [1, T, in], T a multiple of ROWS."""
        rows = x.flatten(0, -2)
        num_rows = rows.shape[0]
        if padding := -num_rows % ROWS:
            rows = pad(rows, (0, 0, 0, padding))
        if num_rows == ROWS:
            output = torch.mm(rows, self.weight)
        else:
            output = rows.new_empty(num_rows + padding, self.weight.shape[1])
            for first in range(0, num_rows, ROWS):
                tile = slice(first, first + ROWS)
                torch.mm(rows[tile], self.weight, out=output[tile])
        if self.bias is not None:
            output += self.bias
        if padding:
            output = output[:num_rows]
        return output.view(x.shape[:-1] + output.shape[1:])


def tile_linears(model: nn.Module) -> None:
    """Put a TiledLinear in the place of every linear layer, the head included."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, TiledLinear(child.weight.detach().t(), child.bias))
            elif isinstance(child, Conv1D):  # GPT-2's, which holds its weight as [in, out]
                setattr(parent, name, TiledLinear(child.weight.detach(), child.bias))
