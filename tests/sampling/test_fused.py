"""The fused kernel against the torch form; needs a GPU with Triton."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wisp.sampling.philox import gumbel_torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("num_tokens", [1, 5, 2048, 4096, 151_936])
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
def test_the_kernel_chooses_what_the_torch_form_chooses(num_tokens: int, scale: float) -> None:
    from wisp.sampling.fused import noisy_argmax

    generator = torch.Generator("cuda").manual_seed(num_tokens)
    options: dict[str, Any] = {"device": "cuda", "generator": generator}
    scores = scale * torch.randn(64, num_tokens, **options)
    scores[::3, num_tokens // 2 :] = float("-inf")  # as top-k leaves a row
    seeds = torch.randint(-(2**63), 2**63 - 1, (64,), **options)
    positions = torch.randint(0, 2**20, (64,), **options)
    noisy = scores + gumbel_torch(seeds, positions, num_tokens)
    chosen = noisy_argmax(scores, seeds, positions)
    # Equal choices, or scores that the two logarithms' rounding cannot tell apart.
    best, found = noisy.max(dim=-1).values, noisy.gather(1, chosen[:, None])[:, 0]
    assert torch.allclose(best, found, rtol=0, atol=1e-5 * max(1.0, scale))
    assert (chosen == noisy.argmax(dim=-1)).float().mean() > 0.98
