"""The command line: `wisp COMMAND`, and `wisp-server`, `wisp-edge` for two of them."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from wisp import __version__
from wisp.config import EdgeConfig, ProfileConfig, ServerConfig, load
from wisp.errors import WispError, missing_extra
from wisp.files import name_temporary_folder
from wisp.flags import spelled
from wisp.launch import give_up_output
from wisp.logs import log_to_stderr

_COMMANDS = {
    "demo": "a server and two edges on this machine, and what the edges gained",
    "server": "verify the drafts of many edges with the target model (also: wisp-server)",
    "profile": "measure the target's steps, so that the server's next start need not",
    "chat": "a conversation in the terminal with an edge or a server",
    "top": "what a running server does: devices, classes, goodput, batches, marginal cost",
    "edge": "draft for a server, serve the applications of this device (also: wisp-edge)",
    "certs": "make a small certificate authority, with certificates of servers and edges",
    "edge-bench": "what this device drafts, as JSON for the simulator and for sizing",
    "models": "public models by name: fetched, converted and checked by hash",
    "keys": "who may use a server: make, list and revoke keys",
    "train-predictor": "learn from rounds that edges logged which drafts the target rejects",
    "completion": "complete commands and flags in bash or zsh",
}
_USAGE = """usage: wisp COMMAND [flags]

commands:
{}

`wisp COMMAND --help` lists the flags; `wisp --version` prints the version.
""".format("\n".join(f"  {name:<16} {about}" for name, about in _COMMANDS.items()))


# PyPI's torch brings CUDA, 5.7 GB, which a device that drafts on its CPU has no use for.
_ON_EDGES = (
    ", with --extra-index-url https://download.pytorch.org/whl/cpu for a device without a GPU, "
    "or draft with a GGUF file and wisp-serving[llama]"
)


def main() -> int:
    arguments = sys.argv[1:]
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "demo": _demo,
        "server": _server,
        "profile": _profile,
        "chat": _chat,
        "top": _top,
        "edge": _edge,
        "edge-bench": _edge_bench,
        "certs": _certs,
        "models": _models,
        "keys": _keys,
        "train-predictor": _train_predictor,
        "completion": _completion,
    }
    match arguments:
        case [] | ["-h" | "--help", *_]:
            print(_USAGE, end="")
            return 0
        case ["--version", *_]:
            print(f"wisp {__version__}")
            return 0
        case [name, *rest] if name in commands:
            return _run(name, commands[name], rest)
        case _:
            print(f"wisp: '{arguments[0]}' is not one of {', '.join(commands)}", file=sys.stderr)
            return 2


def server() -> int:
    return _run("server", _server, sys.argv[1:])


def edge() -> int:
    return _run("edge", _edge, sys.argv[1:])


def _run(name: str, command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """The one place where an error becomes a sentence and an exit code."""
    if "--version" in arguments:
        print(f"wisp {name} {__version__}")
        return 0
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are local directories, never fetched
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # edges may do without torch
    try:
        return command(arguments)
    except WispError as error:
        print(f"wisp {name}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        sentence = missing_extra(error)
        if sentence is None:
            raise
        for_edges = name.startswith("edge") and sentence.endswith("[torch]'")
        print(f"wisp {name}: {sentence}{_ON_EDGES if for_edges else ''}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        give_up_output()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"wisp {name}: the disk is full: make room and try again", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _server(arguments: Sequence[str]) -> int:
    config = load(ServerConfig, arguments, "wisp-server")
    log_to_stderr(config.log_level, config.log_format)
    from wisp.server.main import serve
    from wisp.tracing import traced

    with traced(config.tracing, "wisp-server"):
        return _serve(serve(config))


def _edge(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["install-service"]:
        from wisp.edge.install import run

        return run(arguments[1:])
    config = load(EdgeConfig, arguments, "wisp-edge")
    log_to_stderr(config.log_level, config.log_format)
    from wisp.edge.main import serve
    from wisp.tracing import traced

    with traced(config.tracing, "wisp-edge"):
        return _serve(serve(config))


def _serve(program: Coroutine[Any, Any, int]) -> int:
    name_temporary_folder()
    try:
        return asyncio.run(program)
    finally:
        give_up_output()


def _top(arguments: Sequence[str]) -> int:
    from wisp.top import run

    return run(arguments)


def _edge_bench(arguments: Sequence[str]) -> int:
    from wisp.edge.bench import run

    return run(arguments)


def _chat(arguments: Sequence[str]) -> int:
    from wisp.chat import run

    return run(arguments)


def _profile(arguments: Sequence[str]) -> int:
    config = load(ProfileConfig, arguments, "wisp profile")
    log_to_stderr(config.log_level, config.log_format)
    from wisp.server.profile_command import run

    return run(config)


def _certs(arguments: Sequence[str]) -> int:
    from wisp.certs_command import run

    return run(spelled(arguments, "-"))


def _models(arguments: Sequence[str]) -> int:
    from wisp.models_command import run

    return run(arguments)


def _keys(arguments: Sequence[str]) -> int:
    from wisp.keys_command import run

    return run(spelled(arguments, "-"))


def _train_predictor(arguments: Sequence[str]) -> int:
    from wisp.edge.predictor.train import run

    return run(spelled(arguments))


def _completion(arguments: Sequence[str]) -> int:
    from wisp.shell_completion import run

    return run(arguments, _COMMANDS)


def _demo(arguments: Sequence[str]) -> int:
    from wisp.demo.main import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
