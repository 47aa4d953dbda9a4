"""What a configuration stands for in the engine process: the target, its estimator, a policy."""

from __future__ import annotations

import functools
import hashlib
import os

from wisp.config import ServerConfig
from wisp.engine.engine import Engine
from wisp.engine.keeper import Keeper, keep
from wisp.engine.profiling import CPU_BUDGET_S, GPU_BUDGET_S
from wisp.engine.warm_up import warm_up
from wisp.errors import ConfigError
from wisp.estimator.store import Key
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import ESTIMATING, PolicyChoice
from wisp.verifier.base import Facts, Verifier


def build_engine(config: ServerConfig) -> tuple[Verifier, Engine]:
    """Runs in the engine process: the only one that loads the target."""
    verifier = build_verifier(config)
    if config.engine.drafter.max_drafts:
        warm_up(verifier, config.engine.drafter.max_drafts, config.scheduling.max_step_tokens)
    keeper = _keep(config, verifier)
    choose = functools.partial(
        make_policy,
        estimator=keeper.estimator,
        max_window=config.speculation.max_window,
        max_own=config.engine.drafter.max_drafts,
    )
    engine = Engine(
        verifier,
        choose(policy_choice(config)),
        max_window=config.speculation.max_window,
        max_forks=config.speculation.max_forks,
        max_ngram=config.speculation.max_ngram,
        drafts_own=config.engine.drafter.max_drafts > 0,
        keeper=keeper,
        choose_policy=choose,
    )
    return verifier, engine


def build_verifier(config: ServerConfig) -> Verifier:
    """Load the target. Raises ConfigError if it cannot be."""
    engine = config.engine
    if engine.options and engine.kind != "vllm":
        raise ConfigError("'engine.options' are for the engine 'vllm' alone")
    if engine.lora_modules and engine.kind != "vllm":
        raise ConfigError("'engine.lora_modules' needs the engine 'vllm': this one has no adapters")
    if engine.num_slots and engine.kind != "torch":
        raise ConfigError("'engine.num_slots' is for the engine 'torch': vLLM counts its KV blocks")
    if engine.drafter.method not in (None, "draft_model") and engine.kind != "vllm":
        raise ConfigError(
            f"'engine.drafter.method' {engine.drafter.method} needs the engine 'vllm': this one "
            "drafts with a draft_model"
        )
    if engine.kind == "vllm":
        from wisp.verifier.vllm import load

        return load(
            config.target,
            model=config.model,
            max_sessions=engine.max_sessions,
            max_model_len=engine.max_model_len,
            max_window=max(config.speculation.max_window, engine.drafter.max_drafts),
            max_step_tokens=config.scheduling.max_step_tokens,
            overlap=engine.overlap,
            host_kv_bytes=int(engine.host_kv_gib * 2**30),
            lora_modules=engine.lora_modules,
            drafter_method=engine.drafter.method,
            drafter=engine.drafter.model,
            options=engine.options | ({"dtype": engine.dtype} if engine.dtype else {}),
        )
    if engine.num_threads > 1:
        # Read when torch is loaded. Threads that wait by spinning hold up whoever shares the cores,
        # and then one another: a step took five times as long (docs/measurements/smollm2.md).
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from wisp.verifier.torch import TorchVerifier

    return TorchVerifier(
        config.target,
        model=config.model,
        max_sessions=engine.max_sessions,
        max_model_len=engine.max_model_len,
        device=engine.device,
        dtype=engine.dtype,
        num_threads=engine.num_threads,
        num_slots=engine.num_slots,
        host_kv_bytes=int(engine.host_kv_gib * 2**30),
        drafter=engine.drafter.model,
    )


def estimator_key(config: ServerConfig, facts: Facts) -> Key:
    """The model's shape is part of its name: many directories are called alike."""
    shape = hashlib.sha256((config.target / "config.json").read_bytes()).hexdigest()[:8]
    return Key(model=f"{facts.model} {shape}", gpu=facts.device, engine=facts.engine)


def profile_s(config: ServerConfig, facts: Facts) -> float:
    if config.estimator.profile_s is not None:
        return config.estimator.profile_s
    return GPU_BUDGET_S if facts.on_gpu else CPU_BUDGET_S


def _keep(config: ServerConfig, verifier: Verifier) -> Keeper:
    """A policy that asks for no times starts at once: its estimator is for the metrics alone."""
    asks = config.scheduling.policy in ESTIMATING or config.scheduling.switchable
    return keep(
        verifier,
        config.estimator.state_dir,
        estimator_key(config, verifier.facts),
        profile_s=profile_s(config, verifier.facts) if asks else 0.0,
        max_step_tokens=config.scheduling.max_step_tokens,
        max_window=config.speculation.max_window,
    )


def policy_choice(config: ServerConfig) -> PolicyChoice:
    return PolicyChoice(
        policy=config.scheduling.policy,
        window=config.speculation.window,
        threshold=config.speculation.threshold,
        block_tokens=config.speculation.block_tokens,
        max_step_tokens=config.scheduling.max_step_tokens,
        batch_size=config.scheduling.batch_size,
        batch_wait_s=config.scheduling.batch_wait_s,
    )
