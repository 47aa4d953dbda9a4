"""The start of vLLM's engine inside this process, and what it is called."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterable
from typing import Any

import vllm
from vllm.config import ModelConfig, VllmConfig
from vllm.lora.request import LoRARequest
from vllm.model_executor.models.interfaces import supports_eagle3
from vllm.platforms import current_platform
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor

from wisp.errors import ConfigError, WispError
from wisp.verifier.torch import processor_name
from wisp.verifier.vllm.adapters import add

log = logging.getLogger(__name__)


def device_name(number: int) -> str:
    cpu = current_platform.is_cpu()
    return f"{processor_name() if cpu else current_platform.get_device_name()} x{number}"


def engine_name(config: ModelConfig) -> str:
    number_format = config.quantization or str(config.dtype).removeprefix("torch.")
    return f"vllm {vllm.__version__} {number_format}"


def start(args: Any, adapters: Iterable[LoRARequest]) -> EngineCore:
    """Raises ConfigError."""
    _allow_workers()
    try:
        config = args.create_engine_config()
        _check_head(config)
        core = EngineCore(config, Executor.get_class(config), log_stats=False)
    except WispError:
        raise
    except Exception as error:
        log.exception("vLLM cannot start")
        speculative = args.speculative_config or {}
        if speculative.get("method") == "mtp" and "speculative method" in str(error):
            raise ConfigError(
                f"the target in {args.model} has no MTP layers that vLLM {vllm.__version__} knows: "
                "set 'engine.drafter.method' to draft_model, eagle3 or null"
            ) from error
        raise ConfigError(f"vLLM cannot start: {' '.join(str(error).split())}") from error
    try:
        add(core, adapters)
    except ConfigError:
        core.shutdown()
        raise
    return core


def _check_head(config: VllmConfig) -> None:
    """Raises ConfigError if there is one that cannot read the target: before that is loaded."""
    speculative, model = config.speculative_config, config.model_config
    if speculative and speculative.method == "eagle3":
        found, name = model.registry.resolve_model_cls(model.architectures, model)
        if not supports_eagle3(found):
            raise ConfigError(
                f"vLLM {vllm.__version__}'s {name} does not show its hidden states to an EAGLE-3 "
                "head: set 'engine.drafter.method' to draft_model, mtp or null"
            )


def _allow_workers() -> None:
    """With tensor parallelism vLLM starts processes, which Python forbids to a daemonic one.

    The engine's process is daemonic so that it does not outlive the server. Its workers do not
    outlive it: they are daemonic too, and end when the pipe to it breaks.
    """
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
