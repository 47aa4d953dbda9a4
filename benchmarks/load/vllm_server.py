"""vLLM's own server, but it knows the load format "predictable".

    python -m benchmarks.load.vllm_server [vLLM's own flags]

The format is registered when this module is imported, which the engine's process does, too.
"""

from __future__ import annotations

import os
import runpy

from benchmarks.load.loader import register

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # as where WISP is not beside it
register()

if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
