"""Runs each client against each endpoint, and prints a table: `drive.py SERVER_URL EDGE_URL`.

A client passes when everything that it asked for came, of the right shape: texts, calls of tools
with valid arguments, objects of the given schema. Whether an answer is a good one is not looked at.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
import traceback
from pathlib import Path

import httpx
import programs
import sdks

HERE = Path(__file__).parent
CHECKS = {
    "openai_python": ("openai", sdks.openai_python),
    "openai_js": ("npm openai", programs.openai_js),
    "litellm_sdk": ("litellm", sdks.litellm_sdk),
    "litellm_proxy": ("litellm", programs.litellm_proxy),
    "langchain": ("langchain-openai", sdks.langchain),
    "pydantic_ai": ("pydantic-ai-slim", sdks.pydantic_ai),
    "instructor": ("instructor", sdks.instructor_default),
    "llama_index": ("llama-index-llms-openai-like", programs.llama_index),
    "ai_sdk": ("npm ai", programs.ai_sdk),
    "lm_eval": ("lm-eval", programs.lm_eval),
    "guidellm": ("guidellm", programs.guidellm),
    "schemathesis": ("schemathesis", programs.schemathesis),
    "schemathesis_served": ("schemathesis", programs.schemathesis_served),
}


def version_of(package: str) -> str:
    name = package.removeprefix("npm ")
    if package.startswith("llama-index"):
        (pin,) = (HERE / "requirements-llama-index.txt").read_text().split()
        return pin.partition("==")[2]
    if name == package:
        return importlib.metadata.version(name)
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    return str(wanted[name])


def main(*urls: str) -> int:
    asked = os.environ.get("WISP_CLIENTS", "")
    names = asked.split(",") if asked else list(CHECKS)
    rows, num_failed = [], 0
    for name in names:
        package, check = CHECKS[name]
        told, cells = "", []
        for url in urls:
            model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
            begun_s = time.monotonic()
            try:
                told = check(url, model)
                cells.append(f"pass, {time.monotonic() - begun_s:.0f} s")
            except Exception:
                num_failed += 1
                cells.append("FAIL")
                print(f"FAIL {name} at {url}: {traceback.format_exc(limit=-3)}", flush=True)
        rows.append([f"{package} {version_of(package)}", told, *cells])
        print("| " + " | ".join(rows[-1]) + " |", flush=True)
    print("\n| client | what it did | server | edge |\n| --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(f"\n{num_failed} failed")
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
