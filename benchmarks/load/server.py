"""wisp-server, but for an engine that knows the load format "predictable".

    python -m benchmarks.load.server server --target DIR --engine.kind vllm \\
        --engine.options '{"load_format": "predictable"}' [wisp-server's other flags]
        [--host-parts=FILE] [--step-log=FILE] [--own-acceptance=0.7]

With `--host-parts` the engine writes, as it ends, what the host did between its steps
(`benchmarks.host_parts`) by the number of sessions in them; with `--step-log` what each step was
(`benchmarks.step_log`), and in kv.csv beside it whose KV was where (`benchmarks.kv_log`). With
`--own-acceptance` so many of its drafter's drafts are right (`benchmarks.load.own`).
"""

from __future__ import annotations

import asyncio
import functools
import sys

from benchmarks.load.loader import build, prepare
from benchmarks.load.own import ACCEPTANCE_FLAG
from wisp.config import ServerConfig, load
from wisp.errors import WispError
from wisp.logs import log_to_stderr
from wisp.server.main import serve

_HOST_PARTS = "--host-parts="
STEP_LOG = "--step-log="


def main() -> int:
    try:
        ours = (_HOST_PARTS, STEP_LOG, ACCEPTANCE_FLAG)
        flags = [flag for flag in sys.argv[2:] if not flag.startswith(ours)]
        files, logs = _given(_HOST_PARTS), _given(STEP_LOG)
        chances = _given(ACCEPTANCE_FLAG)
        config = load(ServerConfig, flags, "wisp-server")
        log_to_stderr(config.log_level)
        built = functools.partial(
            build,
            host_parts=files[-1] if files else None,
            step_log=logs[-1] if logs else None,
            own_acceptance=float(chances[-1]) if chances else None,
        )
        return asyncio.run(serve(config, built))
    except WispError as error:
        print(f"wisp server: {error}", file=sys.stderr)
        return 2


def _given(flag: str) -> list[str]:
    return [each.removeprefix(flag) for each in sys.argv[2:] if each.startswith(flag)]


if __name__ == "__main__":
    sys.exit(main())
elif __name__ == "__mp_main__":  # in a process that was started from here: a worker, it may be
    prepare()
