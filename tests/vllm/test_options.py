"""What passes through to vLLM, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wisp.config import TINY
from wisp.errors import ConfigError
from wisp.verifier.vllm import versions


def args(**options: Any) -> Any:
    from wisp.verifier.vllm.options import engine_args

    return engine_args(
        TINY / "target",
        options,
        max_sessions=8,
        max_model_len=64,
        max_window=options.pop("max_window", 4),
        max_step_tokens=32,
        drafter_method=options.pop("drafter_method", None),
        drafter=options.pop("drafter", None),
    )


def test_options_pass_through() -> None:
    made = args(tensor_parallel_size=2, quantization="fp8", gpu_memory_utilization=0.5)
    assert (made.tensor_parallel_size, made.quantization) == (2, "fp8")
    made = args(pipeline_parallel_size=2, distributed_executor_backend="ray")
    assert (made.pipeline_parallel_size, made.distributed_executor_backend) == (2, "ray")
    assert made.max_num_batched_tokens == 32
    assert made.async_scheduling is False


def drafter_args(**options: Any) -> Any:
    from wisp.verifier.vllm.options import draft_args

    return draft_args(
        TINY / "draft", options, max_slots=11, max_model_len=64, memory_share=0.4, dtype=None
    )


def test_a_drafter_has_its_own_settings_for_what_wisp_sets() -> None:
    made = drafter_args(enforce_eager=True, quantization="fp8")
    assert (made.enforce_eager, made.quantization, made.max_num_seqs) == (True, "fp8", 11)
    assert made.speculative_config is None
    with pytest.raises(ConfigError, match=r"not yours to set: set 'drafter\.max_sessions'"):
        drafter_args(max_num_seqs=4)
    with pytest.raises(ConfigError, match=r"not yours to set: set 'drafter\.memory_share'"):
        drafter_args(gpu_memory_utilization=0.9)
    with pytest.raises(ConfigError, match="did you mean 'enforce_eager'"):
        drafter_args(enforce_eagre=True)


def test_white_space_of_structures_may_be_chosen() -> None:
    name = "structured_outputs_config"
    made = args(**{name: {"disable_any_whitespace": True}})
    chosen = {"disable_any_whitespace": True, "backend": "xgrammar"}
    assert made.structured_outputs_config == chosen
    for other in ({"backend": "guidance"}, {"disable_any_whitespace": True, "backend": "auto"}):
        with pytest.raises(ConfigError, match=f"'{name}' is not yours to set"):
            args(**{name: other})


def test_unknown_options_are_refused_by_name() -> None:
    with pytest.raises(
        ConfigError,
        match="no option 'gpu_memory_utilisation'; did you mean 'gpu_memory_utilization'",
    ):
        args(gpu_memory_utilisation=0.5)


@pytest.mark.parametrize(
    "name", ["scheduler_cls", "speculative_config", "async_scheduling", "model"]
)
def test_what_wisp_owns_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is not yours to set"):
        args(**{name: None})


@pytest.mark.parametrize("name", ["eagle-eyed", "Qwen3-8B_EAGLE3"])
def test_a_drafter_that_vllm_would_take_for_a_head_is_refused(name: str) -> None:
    drafter = Path("/models") / name
    with pytest.raises(ConfigError, match="for a head"):
        args(drafter_method="draft_model", drafter=drafter)
    made = args(drafter_method="eagle3", drafter=drafter)
    assert made.speculative_config["model"] == str(drafter)


def test_a_window_beyond_vllms_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 128"):
        args(max_window=129)


@pytest.mark.parametrize(
    ("num_seats", "window", "step_tokens", "model_len"),
    [
        (256, 7, 4096, 8192),
        (256, 7, 4096, 768),
        (1, 0, 64, None),
        (64, 64, 2048, None),
        (8, 4, 32, 64),
    ],
)
def test_graphs_fit_every_step_closely_and_the_models_length(
    num_seats: int, window: int, step_tokens: int, model_len: int | None
) -> None:
    from wisp.verifier.vllm.options import graph_sizes

    sizes, unit = graph_sizes(num_seats, window, step_tokens, model_len), window + 1
    most = min(num_seats * unit, step_tokens, model_len or step_tokens)
    assert most - unit < sizes[-1] <= most
    assert sizes[-1] % unit == 0
    assert all(0 < b - a <= max(8, a / 16) for a, b in zip([0, *sizes], sizes, strict=False))


def test_no_graph_fits() -> None:
    from wisp.verifier.vllm.options import graph_sizes

    assert graph_sizes(8, 64, 32, None) == []


@pytest.mark.parametrize("found", ["0.25.3", "0.33.0", "1.0", "dev"])
def test_other_versions_are_refused(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_installed", lambda: found)
    with pytest.raises(ConfigError, match=rf"vLLM {found} .* works with 0\.26 to 0\.32"):
        versions.prepare()


def test_a_missing_vllm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_installed", lambda: None)
    with pytest.raises(ConfigError, match=r"needs vLLM 0\.26 to 0\.32"):
        versions.prepare()
