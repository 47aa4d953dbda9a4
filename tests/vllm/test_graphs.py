"""Which CUDA graph a step would have; none is captured on a CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.config import CompilationConfig, CUDAGraphMode
from vllm.v1.cudagraph_dispatcher import CudagraphDispatcher
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from wisp.verifier.vllm.graphs import install, whole_steps
from wisp.verifier.vllm.options import WHOLE_STEPS

_SIZES = [8, 16, 32]


def dispatcher() -> Any:
    compilation = SimpleNamespace(
        cudagraph_mode=CUDAGraphMode.FULL_AND_PIECEWISE,
        is_attention_compiled_piecewise=lambda: True,
        max_cudagraph_capture_size=_SIZES[-1],
        cudagraph_capture_sizes=_SIZES,
        compile_sizes=[],
    )
    config = SimpleNamespace(
        compilation_config=compilation,
        num_speculative_tokens=7,
        lora_config=None,
        scheduler_config=SimpleNamespace(max_num_seqs=64),
    )
    found = CudagraphDispatcher(config)
    found.initialize_cudagraph_keys(CUDAGraphMode.FULL_AND_PIECEWISE, 8)
    return found


def test_a_step_of_unequal_drafts_has_a_whole_graph() -> None:
    stock = dispatcher()
    assert stock.dispatch(11)[0] == CUDAGraphMode.PIECEWISE
    ours = dispatcher()
    whole_steps(ours, 8, [])
    for is_uniform in (False, True):
        mode, descriptor = ours.dispatch(11, uniform_decode=is_uniform)
        assert (mode, descriptor.num_tokens) == (CUDAGraphMode.FULL, 16)


def test_whole_steps_have_sizes_of_their_own() -> None:
    """Stock code rounds to multiples of 8, as many tokens as a request has at most."""
    ours = dispatcher()
    whole_steps(ours, 8, [8, 12, 32])
    for is_uniform in (False, True):
        assert ours.dispatch(9, uniform_decode=is_uniform)[1].num_tokens == 12
        assert ours.dispatch(16, uniform_decode=is_uniform)[1].num_tokens == 32


def test_stock_code_does_not_round_the_sizes_of_steps() -> None:
    """It would to multiples of 16, as many tokens as a request has at most."""
    sizes = [8, 24, 32, 40, 48]
    compilation = CompilationConfig(
        cudagraph_mode=CUDAGraphMode.FULL,
        cudagraph_capture_sizes=sizes,
        max_cudagraph_capture_size=48,
    )
    config = SimpleNamespace(
        compilation_config=compilation,
        num_speculative_tokens=15,
        lora_config=None,
        scheduler_config=SimpleNamespace(max_num_seqs=64),
        additional_config={WHOLE_STEPS: sizes},
    )
    runner = SimpleNamespace(
        vllm_config=config,
        compilation_config=compilation,
        cudagraph_dispatcher=CudagraphDispatcher(config),
        uniform_decode_query_len=16,
        kv_cache_config=None,
        max_num_reqs=64,
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
        speculative_config=None,
    )
    install()
    # vLLM's own name for where it settles the sizes, which `install` wraps.
    GPUModelRunner._check_and_update_cudagraph_mode(runner, [], [])
    assert compilation.cudagraph_capture_sizes == sizes
    for num_tokens, padded in ((5, 8), (9, 24), (33, 40)):
        mode, descriptor = runner.cudagraph_dispatcher.dispatch(num_tokens)
        assert (mode, descriptor.num_tokens) == (CUDAGraphMode.FULL, padded)


def test_pieces_are_captured_before_whole_steps() -> None:
    """In the first phase the drafter's are."""
    ours = dispatcher()
    whole_steps(ours, 8, [])
    phases = ours.get_capture_descs()
    assert [mode for mode, _ in phases] == [CUDAGraphMode.PIECEWISE, CUDAGraphMode.FULL]
    assert [sorted(each.num_tokens for each in each_phase) for _, each_phase in phases] == [
        _SIZES,
        _SIZES,
    ]
