"""The predictable target on vLLM, whose weights no disk need hold: a load format of its own."""

from __future__ import annotations

from typing import Any

from benchmarks.load.target import make_predictable
from wisp.config import ServerConfig
from wisp.engine.build import build_engine
from wisp.engine.engine import Engine
from wisp.verifier.base import Verifier

LOAD_FORMAT = "predictable"


def build(config: ServerConfig) -> tuple[Verifier, Engine]:
    """As `wisp.server.build.build_engine`; runs in the engine process, which is the one to know."""
    if config.engine.options.get("load_format") == LOAD_FORMAT:
        register()
    return build_engine(config)


def register() -> None:
    """Add the load format to this process's vLLM."""
    from wisp.verifier.vllm import versions

    versions.prepare()
    from vllm.model_executor.model_loader import DummyModelLoader, register_model_loader

    class PredictableLoader(DummyModelLoader):  # type: ignore[misc]
        def load_weights(self, model: Any, model_config: Any) -> None:
            super().load_weights(model, model_config)
            make_predictable(dict(model.named_parameters()), model_config.get_vocab_size())

    register_model_loader(LOAD_FORMAT)(PredictableLoader)
