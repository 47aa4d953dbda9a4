"""LoRA adapters of the bundled target, written here, and the target with one merged into it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from wisp.config import TINY

RANK, ALPHA = 6, 12  # of no rank that vLLM has
MODULES = ("q_proj", "v_proj")
TARGET = TINY / "target"


def write_adapter(folder: Path, seed: int, rank: int = RANK, num_inputs: int | None = None) -> Path:
    """Random weights, strong enough to change a text and weak enough to leave it a text."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, weight in _adapted().items():
        name = f"base_model.model.{module}"
        outputs, inputs = weight.shape[0], num_inputs or weight.shape[1]
        strength = 0.15 * float(weight.float().std()) / rank**0.5
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=random)
        tensors[f"{name}.lora_B.weight"] = strength * torch.randn(outputs, rank, generator=random)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": ALPHA, "target_modules": list(MODULES)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def merge(adapter: Path, folder: Path) -> Path:
    """The bundled target with W + alpha / r * B A in place of W."""
    merged = {name: weight.float() for name, weight in load_file(_weights()).items()}
    parts = load_file(adapter / "adapter_model.safetensors")
    for module in _adapted():
        left, right = (parts[f"base_model.model.{module}.lora_{part}.weight"] for part in "BA")
        merged[f"{module}.weight"] += ALPHA / RANK * left @ right
    folder.mkdir()
    save_file(merged, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text((TARGET / "config.json").read_text())
    return folder


def _adapted() -> dict[str, torch.Tensor]:
    weights = load_file(_weights())
    modules = {name.removesuffix(".weight"): weight for name, weight in weights.items()}
    return {name: weight for name, weight in modules.items() if name.endswith(MODULES)}


def _weights() -> Path:
    return TARGET / "model.safetensors"
