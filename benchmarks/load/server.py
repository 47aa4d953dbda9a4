"""wisp-server, but for an engine that knows the load format "predictable".

    python -m benchmarks.load.server server --target DIR --engine.kind vllm \\
        --engine.options '{"load_format": "predictable"}' [wisp-server's other flags]
        [--host-parts=FILE]

With `--host-parts` the engine writes, as it ends, what the host did between its steps
(`benchmarks.host_parts`) by the number of sessions in them.
"""

from __future__ import annotations

import asyncio
import functools
import sys

from benchmarks.load.loader import build
from wisp.config import ServerConfig, load
from wisp.errors import WispError
from wisp.logs import log_to_stderr
from wisp.server.main import serve

_HOST_PARTS = "--host-parts="


def main() -> int:
    try:
        flags = [flag for flag in sys.argv[2:] if not flag.startswith(_HOST_PARTS)]
        files = [flag.removeprefix(_HOST_PARTS) for flag in sys.argv[2:] if flag not in flags]
        config = load(ServerConfig, flags, "wisp-server")
        log_to_stderr(config.log_level)
        built = functools.partial(build, host_parts=files[-1] if files else None)
        return asyncio.run(serve(config, built))
    except WispError as error:
        print(f"wisp server: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
