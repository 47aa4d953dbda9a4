"""CUDA graphs where a drafter is beside the target: of whole steps, and of the drafter's pieces.

Stock code captures a drafter in pieces, and only along with the target's pieces. Then whole graphs
are for steps in which all requests have equally many drafts; any other one is launched piece by
piece, which takes the host 13 ms for 64 layers. So the target's graphs are captured as if it were
alone (mode FULL), and the drafter's pieces beside them.
"""

from __future__ import annotations

from typing import Any

from vllm.config import CUDAGraphMode
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from wisp.verifier.vllm.options import APART


def install() -> None:
    """Before a model runner is made, in the process that makes it."""
    if getattr(GPUModelRunner, APART, False):
        return
    setattr(GPUModelRunner, APART, True)
    stock_check = GPUModelRunner._check_and_update_cudagraph_mode
    stock_warm_up_and_capture = GPUModelRunner._warmup_and_capture
    stock_capture = GPUModelRunner.capture_model

    def check(runner: Any, backends: Any, groups: Any, *args: Any, **more: Any) -> None:
        stock_check(runner, backends, groups, *args, **more)
        if _is_apart(runner) and _takes_any_step(runner, backends, groups):
            whole_steps(runner.cudagraph_dispatcher, runner.uniform_decode_query_len)

    def warm_up_and_capture(
        runner: Any, desc: Any, cudagraph_runtime_mode: CUDAGraphMode, **more: Any
    ) -> None:
        is_drafters = cudagraph_runtime_mode == CUDAGraphMode.PIECEWISE
        if is_drafters and runner.cudagraph_dispatcher.cudagraph_mode == CUDAGraphMode.FULL:
            slots = dict.fromkeys(runner.drafter._draft_attn_layer_names)
            for captures in (False, True):  # the first time it may compile something
                runner.drafter.dummy_run(
                    desc.num_tokens,
                    use_cudagraphs=captures,
                    is_graph_capturing=True,
                    slot_mappings=slots,
                )
            return
        stock_warm_up_and_capture(
            runner, desc, cudagraph_runtime_mode=cudagraph_runtime_mode, **more
        )

    def capture(runner: Any) -> Any:
        found = stock_capture(runner)
        if runner.cudagraph_dispatcher.cudagraph_mode == CUDAGraphMode.FULL:  # it has no pieces
            runner.cudagraph_dispatcher.cudagraph_keys[CUDAGraphMode.PIECEWISE].clear()
        return found

    GPUModelRunner._check_and_update_cudagraph_mode = check
    GPUModelRunner._warmup_and_capture = warm_up_and_capture
    GPUModelRunner.capture_model = capture


def whole_steps(dispatcher: Any, uniform_decode_query_len: int) -> None:
    """Of the target: graphs of whole steps, whatever drafts its requests have. The keys of pieces
    stay until all is captured: by them stock code comes to capture the drafter's."""
    dispatcher.cudagraph_keys[CUDAGraphMode.FULL].clear()
    dispatcher.initialize_cudagraph_keys(CUDAGraphMode.FULL, uniform_decode_query_len)


def _is_apart(runner: Any) -> bool:
    is_asked = runner.vllm_config.additional_config.get(APART)
    mode = runner.cudagraph_dispatcher.cudagraph_mode
    return bool(is_asked) and mode == CUDAGraphMode.FULL_AND_PIECEWISE


def _takes_any_step(runner: Any, backends: Any, groups: Any) -> bool:
    """The attention's kernels can be in a graph of requests with unequal numbers of tokens."""
    return all(
        backend.get_builder_cls().get_cudagraph_support(runner.vllm_config, group.kv_cache_spec)
        == AttentionCGSupport.ALWAYS
        for of_group, group in zip(backends, groups, strict=True)
        for backend in of_group
    )
