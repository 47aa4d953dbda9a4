"""Layers in the place of a model's own.

Those of a target give a token the same bits whatever is computed beside it; a drafter's are fast.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers.activations import SiLUActivation
from transformers.pytorch_utils import Conv1D

from wisp.models.layout import ROWS


class TiledLinear(nn.Module):
    """x @ weight.T + bias, ROWS rows at a time: a row's bits do not depend on how many there are.

    The weight [out, in] lies transposed in memory: the kernels read it so without packing it first,
    which pays for the tiles. A head that shares its weight with the embedding has a copy of it.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # A plain attribute: a parameter is looked up the slow way, hundreds of times in a forward.
        self.weight = weight.detach().t().contiguous().t()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """[1, T, in] -> [1, T, out]; a forward's T is a multiple of ROWS."""
        if x.shape[1] == ROWS and x.dim() == 3 and x.shape[0] == 1:
            output = linear(x, self.weight)  # comes down to the product below
        else:
            output = self._by_tiles(x.flatten(0, -2)).view(*x.shape[:-1], self.weight.shape[0])
        return output if self.bias is None else output.add_(self.bias)

    def _by_tiles(self, rows: Tensor) -> Tensor:
        num_rows = rows.shape[0]
        if padding := -num_rows % ROWS:
            rows = pad(rows, (0, 0, 0, padding))
        weight = self.weight.t()
        output = rows.new_empty(num_rows + padding, weight.shape[1])
        for first in range(0, num_rows, ROWS):
            tile = slice(first, first + ROWS)
            torch.mm(rows[tile], weight, out=output[tile])
        return output[:num_rows]


class Int8Linear(nn.Module):
    """x @ weight.T + bias, with weights of 8 bits, a scale for each row of them, and one for x.

    A few tokens take the time in which the weights are read: a quarter of those of float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        # The largest of a row becomes 127; a row of zeros has any scale.
        scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings():  # torch means to replace it, and has nothing as fast yet
            warnings.simplefilter("ignore", UserWarning)
            rows = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(rows, bias)

    def forward(self, x: Tensor) -> Tensor:
        # 7 bits of x: with 8 the sums overflow on processors without instructions for them.
        output: Tensor = torch.ops.quantized.linear_dynamic(x, self._packed, True)
        return output


class ExactSilu(nn.Module):
    """x * sigmoid(x), the same bits for an element wherever it lies.

    torch's own kernel rounds differently at the ragged end of what a thread works on, and where
    that is depends on the number of tokens if there are several threads. Its `exp` does not.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x / x.neg().exp_().add_(1.0)


class FusedRmsNorm(nn.Module):
    """What transformers' norms compute, to the bit, in one call in place of eight.

    It is a third faster for a few tokens, which pays for what the tiles cost a single session.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self._weight = weight.detach()
        self._shape = list(weight.shape)
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return torch.rms_norm(x, self._shape, self._weight, self._eps)


def replace_layers(model: nn.Module) -> None:
    """Put layers that keep the bits, the head included, in the place of those that do not."""
    exact = _is_exact_silu_needed(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, TiledLinear(child.weight, child.bias))
            elif isinstance(child, Conv1D):  # GPT-2's, which holds its weight as [in, out]
                setattr(parent, name, TiledLinear(child.weight.t(), child.bias))
            elif isinstance(child, nn.SiLU | SiLUActivation) and exact:
                setattr(parent, name, ExactSilu())
            elif (norm := _fused(child)) is not None:
                setattr(parent, name, norm)


def lighten(model: nn.Module) -> None:
    """Put faster layers, the head included, in the place of those of a drafter on a CPU."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, Int8Linear(child.weight, child.bias))
            elif (norm := _fused(child)) is not None:
                setattr(parent, name, norm)


def _is_exact_silu_needed(model: nn.Module) -> bool:
    """One thread takes 32 numbers at a time, two vectors of AVX-512, or fewer: ROWS rows that are
    whole multiples of that leave it no ragged end.
    """
    widths = [child.out_features for child in model.modules() if isinstance(child, nn.Linear)]
    return torch.get_num_threads() > 1 or any(ROWS * width % 32 for width in widths)


@torch.inference_mode()
def _fused(child: Any) -> nn.Module | None:
    """The faster norm, if `child` is a norm and the two agree in every bit of a sample.

    Some models' norms do something else under a like name: they stay as they are.
    """
    weight, eps = getattr(child, "weight", None), getattr(child, "variance_epsilon", None)
    if not type(child).__name__.endswith("RMSNorm") or weight is None or eps is None:
        return None
    norm = FusedRmsNorm(weight, eps)
    sample = torch.linspace(-3.0, 3.0, ROWS * weight.numel(), dtype=weight.dtype)
    sample = sample.view(1, ROWS, -1)
    return norm if torch.equal(norm(sample), child(sample)) else None
