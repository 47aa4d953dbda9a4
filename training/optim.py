"""One training loop for both models: AdamW, linear warm-up, cosine decay, clipped gradients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WARMUP_STEPS = 100
FINAL_RATE = 0.05
"""Of the peak learning rate, at the last step."""


@dataclass(frozen=True)
class Schedule:
    steps: int
    learning_rate: float
    weight_decay: float

    def rate(self, step: int) -> float:
        warmup = min(1.0, (step + 1) / min(WARMUP_STEPS, self.steps))
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warmup * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[int], Tensor],
    schedule: Schedule,
    report: Callable[[], str],
    report_every: int = 500,
) -> None:
    """`loss(step)` draws its own batch; `report()` adds to the progress lines."""
    device = next(model.parameters()).device
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    gains = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=device.type == "cuda")
    started = time.perf_counter()
    model.train()
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            value = loss(step)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step in (9, 99) or (step + 1) % report_every == 0 or step + 1 == schedule.steps:
            line = f"{name} step {step + 1}/{schedule.steps} loss {value.item():.4f} {report()}"
            print(f"{line} [{time.perf_counter() - started:.1f} s]", flush=True)
            model.train()
    model.eval()
