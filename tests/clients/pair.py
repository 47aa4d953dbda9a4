"""A server and an edge for the clients: `python -m tests.clients.pair MODEL COMMAND...`.

MODEL is a Hugging Face directory; its copy gets a chat template that knows tools, and is served by
vLLM, so that structures are enforced. COMMAND gets both addresses behind its own arguments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from wisp.launch import Process

# Small models fill JSON with white space until they are cut off, where they may.
OPTIONS = {"enforce_eager": True, "structured_outputs_config": {"disable_any_whitespace": True}}
# Of a server that lets requests wait rather than refuse them, as vLLM's own does: guidellm has 512
# under way at once, and a machine without a GPU cannot promise each of them more.
PATIENT = ("--engine.max_sessions=1024", "--slo.tokens_per_s=0.01", "--slo.first_token_s=600")
TEMPLATE = Path(__file__).with_name("hermes.jinja")


def with_tools(model: Path, into: Path) -> Path:
    """The same model under a chat template that knows tools."""
    copy = into / f"{model.name}-tools"
    copy.mkdir()
    for path in model.iterdir():
        if path.name not in ("tokenizer_config.json", "chat_template.jinja"):
            (copy / path.name).symlink_to(path.resolve())
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["chat_template"] = TEMPLATE.read_text()
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    return copy


def main(model: str, *command: str) -> int:
    from wisp.config import SMOLLM2

    # vLLM's, for a small machine: GiB of KV, and no threads bound to cores that others use.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    with tempfile.TemporaryDirectory() as folder:
        target = with_tools(Path(model), Path(folder))
        logs = Path(os.environ.get("WISP_CLIENTS_LOGS", folder))
        ports = ("--http.port=0", "--log_level=INFO")
        server = Process(
            "server",
            f"--target={target}",
            "--engine.kind=vllm",
            "--engine.max_model_len=2048",
            f"--engine.options={json.dumps(OPTIONS)}",
            "--estimator.profile_s=2",
            *PATIENT,
            "--grpc.port=0",
            *ports,
            log=logs / "server.log",
            ready_timeout_s=300.0,
        )
        with server:
            edge = Process(
                "edge",
                f"--server=127.0.0.1:{server.facts['grpc']}",
                f"--draft={SMOLLM2}",
                *ports,
                log=logs / "edge.log",
            )
            with edge:
                return subprocess.run([*command, server.url, edge.url], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
