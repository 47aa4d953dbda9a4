"""The servers under load: wisp-server with the predictable target, and vLLM's own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.load.loader import LOAD_FORMAT
from benchmarks.load.target import write_config, write_model
from benchmarks.shapes import GPU_SHARES
from wisp.errors import Unavailable
from wisp.launch import Process

MAX_WINDOW = 15  # CUDA graphs are captured for multiples of this and one
MAX_STEP_TOKENS = 512
MAX_MODEL_LEN = 4096
_SERVER = "vllm.entrypoints.openai.api_server"
_PREDICTABLE_SERVER = "benchmarks.load.vllm_server"  # the same, with one load format more
_FIRST_PORT = 10_000  # chosen: above those of well-known services
READY_S = 600.0  # a large target takes a minute or two


@contextlib.contextmanager
def wisp_server(
    folder: Path,
    *,
    shape: str,
    engine: str,
    options: Mapping[str, Any],
    max_sessions: int,
    profile_s: float | None,
    flags: Sequence[str] = (),
    host_parts: Path | None = None,
) -> Iterator[Process]:
    """Its log is `folder`/server.log. Raises Unavailable if it does not start.

    `options`: of vLLM (`vllm_options`); the torch engine has none.
    `host_parts`: where to write what the host did between steps (`benchmarks.load.server`).
    """
    common = [
        f"--engine.kind={engine}",
        f"--engine.max_sessions={max_sessions}",
        f"--engine.max_model_len={MAX_MODEL_LEN}",
        f"--scheduling.max_step_tokens={MAX_STEP_TOKENS}",
        f"--speculation.max_window={MAX_WINDOW}",
        f"--estimator.state_dir={folder / 'state'}",
        "--scheduling.switchable",
        "--http.port=0",
        "--grpc.port=0",
        "--drain_s=1",
    ]
    if profile_s is not None:
        common.append(f"--estimator.profile_s={profile_s}")
    if engine == "vllm":
        target = write_config(folder / "target", shape)
        all_options = {**options, "load_format": LOAD_FORMAT}
        common.append(f"--engine.options={json.dumps(all_options)}")
    else:
        target = write_model(folder / "target", shape)
    if host_parts:
        common.append(f"--host-parts={host_parts}")
    with Process(
        "server",
        f"--target={target}",
        *common,
        *flags,
        log=folder / "server.log",
        ready_timeout_s=READY_S,
        module="benchmarks.load.server",
    ) as process:
        yield process


def vllm_options(
    kv_tokens: int | None, *, shape: str = "", tensor_parallel: int = 1
) -> dict[str, Any]:
    """Of both servers: the KV memory of the GPU that is stood for, and one number format."""
    block = 32 if _on_cpu() else 16
    options: dict[str, Any] = {"block_size": block}
    options["dtype"] = "float32" if _on_cpu() else "bfloat16"
    if kv_tokens:
        options["num_gpu_blocks_override"] = kv_tokens // block
    if tensor_parallel > 1:
        options["tensor_parallel_size"] = tensor_parallel
    if shape in GPU_SHARES:
        options["gpu_memory_utilization"] = GPU_SHARES[shape]
    return options


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Engine arguments as vLLM's command line has them."""
    flags = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            told = json.dumps(value) if isinstance(value, dict | list) else value
            flags.append(f"--{flag}={told}")
    return flags


def free_port() -> int:
    """For a server that cannot choose one itself, and takes it some seconds later.

    Not one of those that the system gives to connections: another load test beside this one opens
    hundreds of them meanwhile.
    """
    while True:
        port = random.SystemRandom().randrange(_FIRST_PORT, _first_given_port())
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _first_given_port() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return 32768  # Linux's default, where it does not say


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    if _on_cpu():  # where vLLM's default claims nearly all memory; GiB, as wisp-server has it
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    return environment


def _on_cpu() -> bool:
    import torch

    return not torch.cuda.is_available()


class VllmServer:
    """vLLM's own server as its users start it; random weights, no tokenizer. A context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        shape: str,
        options: Mapping[str, Any],
        max_sessions: int,
        speculation: dict[str, Any] | None = None,
        predictable: bool = False,
        host_kv_gib: int = 0,
    ) -> None:
        """Its log is `folder`/vllm.log. Raises Unavailable if it does not start.

        `options`: its engine arguments. `speculation`: its `speculative_config`.
        `predictable`: the weights are.
        `host_kv_gib`: memory of the host for KV that was evicted.
        """
        port = free_port()
        arguments = {
            "model": write_config(folder / "target", shape),
            "load_format": LOAD_FORMAT if predictable else "dummy",
            "host": "127.0.0.1",
            "port": port,
            "max_model_len": MAX_MODEL_LEN,
            "max_num_seqs": max_sessions,
            **options,
        }
        if speculation:
            arguments["speculative_config"] = speculation
        if host_kv_gib:
            arguments["kv_offloading_size"] = host_kv_gib
        command = [sys.executable, "-m", _PREDICTABLE_SERVER if predictable else _SERVER]
        command += as_flags(arguments)
        command += ["--skip-tokenizer-init", "--disable-uvicorn-access-log"]
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "vllm.log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                command, stdout=log, stderr=log, env=_environment(), start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise

    def alive(self) -> bool:
        return self._popen.poll() is None

    def _wait(self) -> None:
        end_s = time.monotonic() + READY_S
        while time.monotonic() < end_s:
            if not self.alive():
                lines = self._log.read_text().strip().splitlines()[-1:]
                raise Unavailable(f"vLLM's server did not start: {' '.join(lines)}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=5.0).status_code == 200:
                    return
            time.sleep(0.5)
        raise Unavailable(f"vLLM's server was not ready after {READY_S:g} s")

    def __enter__(self) -> VllmServer:
        return self

    def __exit__(self, *_: object) -> None:
        """Its engine is a process of its own, in the same process group."""
        self._popen.terminate()
        try:
            self._popen.wait(15.0)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, 9)
