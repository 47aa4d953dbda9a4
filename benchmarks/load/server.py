"""wisp-server, but for an engine that knows the load format "predictable".

    python -m benchmarks.load.server server --target DIR --engine.kind vllm \\
        --engine.options '{"load_format": "predictable"}' [wisp-server's other flags]
"""

from __future__ import annotations

import asyncio
import sys

from benchmarks.load.loader import build
from wisp.config import ServerConfig, load
from wisp.errors import WispError
from wisp.launch import log_to_stderr
from wisp.server.main import serve


def main() -> int:
    try:
        config = load(ServerConfig, sys.argv[2:], "wisp-server")
        log_to_stderr(config.log_level)
        return asyncio.run(serve(config, build))
    except WispError as error:
        print(f"wisp server: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
