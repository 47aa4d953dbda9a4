"""Clients that are programs of their own; each returns what it did."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import openai

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
NODE = BIN.parent / "node"
LLAMA_INDEX = BIN.parent / "llama-index" / "bin" / "python"
KEY = f"sk-{secrets.token_hex(16)}"  # LiteLLM's proxy wants one
TOKENIZER = HERE.parent.parent / "wisp" / "models" / "smollm2"
# Of each request with which schemathesis tries an endpoint; four phases make these cases.
NUM_CASES = int(os.environ.get("WISP_CLIENTS_CASES", "2000"))
# Of each load of guidellm's sweep. Chosen: its ten loads take two minutes.
SECONDS_A_LOAD = 10
# How long a program may take, in seconds. Chosen: ten times what the slowest needs.
TIMEOUT_S = 1800


def openai_js(url: str, model: str) -> str:
    return run("node", str(NODE / "openai_js.mjs"), url, model)


def ai_sdk(url: str, model: str) -> str:
    return run("node", str(NODE / "ai_sdk.mjs"), url, model)


def llama_index(url: str, model: str) -> str:
    return run(str(LLAMA_INDEX), str(HERE / "llama_index_client.py"), url, model)


def litellm_proxy(url: str, model: str) -> str:
    """As a proxy in front of the endpoint, which OpenAI's SDK talks to."""
    served = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "mine", "litellm_params": served}],
        "litellm_settings": {"num_retries": 0},
        "general_settings": {"master_key": KEY},
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"  # JSON is YAML
        path.write_text(json.dumps(config))
        command = [str(BIN / "litellm"), "--config", str(path), "--port", str(port)]
        with (Path(folder) / "log").open("w") as log:
            proxy = subprocess.Popen(
                [*command, "--host", "127.0.0.1"], stdout=log, stderr=log, cwd=folder
            )
        try:
            _until_alive(proxy, f"http://127.0.0.1:{port}/health/liveliness", Path(folder) / "log")
            client = openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0
            )
            messages: object = [{"role": "user", "content": "Hello"}]
            for _ in range(2):  # a deployment that fails once is taken out
                asked: dict[str, object] = {"model": "mine", "max_tokens": 12}
                whole = client.chat.completions.create(messages=messages, **asked)  # type: ignore
                assert whole.choices[0].message.content
                assert list(client.chat.completions.create(messages=messages, stream=True, **asked))  # type: ignore
                answer = client.responses.create(model="mine", input="Hi", max_output_tokens=12)
                assert answer.output_text
        finally:
            proxy.terminate()
            proxy.wait()
    return "chat, streams and responses through it, twice"


def _until_alive(proxy: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until_s = time.monotonic() + 120.0
    while time.monotonic() < until_s and proxy.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise RuntimeError(f"the proxy did not start: {log.read_text()[-2000:]}")


def lm_eval(url: str, model: str) -> str:
    """Two tasks of its own kinds, on data that lies here: public data sets need the network."""
    told = []
    for kind, path, task in (
        ("local-completions", "/v1/completions", "wisp_choices"),
        ("local-completions", "/v1/completions", "wisp_generation"),
        ("local-chat-completions", "/v1/chat/completions", "wisp_generation"),
    ):
        fields = (
            f"model={model},base_url={url}{path},tokenizer={TOKENIZER},"
            "tokenizer_backend=huggingface,num_concurrent=4"
        )
        chat = ["--apply_chat_template"] if "chat" in kind else []
        with tempfile.TemporaryDirectory() as folder:
            run(
                str(BIN / "lm_eval"),
                "--model",
                kind,
                "--model_args",
                fields,
                "--tasks",
                task,
                "--include_path",
                str(HERE / "tasks"),
                "--output_path",
                folder,
                *chat,
                cwd=HERE,
            )
            (found,) = Path(folder).rglob("results_*.json")
            results = json.loads(found.read_text())["results"][task]
            name, value = next((k, v) for k, v in results.items() if "," in k and "stderr" not in k)
            told.append(f"{task} {name.partition(',')[0]} {value:.2f}")
    return "loglikelihood and generation: " + "; ".join(told)


def guidellm(url: str, model: str) -> str:
    """Its default profile, a sweep of ten loads with up to 512 requests under way."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        run(
            str(BIN / "guidellm"),
            "run",
            "--backend",
            f"kind=openai_http,target={url},model={model}",
            "--tokenizer",
            f"kind=hf_auto,model={TOKENIZER}",
            "--data",
            "kind=synthetic_text,prompt_tokens=32,output_tokens=8",
            "--profile",
            "kind=sweep",
            "--constraint",
            f"kind=max_duration,seconds={SECONDS_A_LOAD}",
            "--output",
            f"kind=json,path={output}",
            "--disable-console",
            cwd=Path(folder),
        )
        report = json.loads(output.read_text())
    counts = [run["metrics"]["request_totals"] for run in report["benchmarks"]]
    num_good = sum(count["successful"] for count in counts)
    num_bad = sum(count["errored"] for count in counts)
    assert num_good, counts
    assert not num_bad, counts
    return f"its default run, a sweep of {len(counts)} loads: {num_good} answered, 0 errors"


def schemathesis(url: str, model: str) -> str:
    """From the document alone, with the default checks."""
    return _fuzzed(url, {})


def schemathesis_served(url: str, model: str) -> str:
    """With the name of the served model in each request, so that they are answered."""
    hooks = {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)}
    return _fuzzed(url, hooks | {"WISP_MODEL": model})


def _fuzzed(url: str, more: dict[str, str]) -> str:
    said = run(
        str(BIN / "st"),
        "run",
        f"{url}/openapi.json",
        "--max-examples",
        str(NUM_CASES),
        "--seed",
        "1",
        "--no-color",
        "--continue-on-failure",
        cwd=HERE,
        **more,
    )
    found = re.search(r"Test cases:\n\s+(.*)", said)
    assert found, said
    return found[1]


def run(*command: str, cwd: Path | None = None, **more: str) -> str:
    """The last line that it printed; raises with the end of what it said if it failed."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=cwd,
        check=False,
        env={**os.environ, **more},
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-6000:]}")
    return done.stdout.strip()
