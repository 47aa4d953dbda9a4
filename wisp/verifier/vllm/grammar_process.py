"""The process that tries grammars: `python -m wisp.verifier.vllm.grammar_process MIB S THREADS`.

It may take so much memory beyond what it has when it is ready, and so much processor time for each
of them; it ends by SIGPROF where that is not enough, and with its standard input. To try one is to
compile it, and to write by it: what is small may yet take for ever to tell which tokens may follow.
Frames go both ways, each behind its length (8 bytes, big-endian). In comes first the tokenizer, as
xgrammar writes it, then `Asked`. Each is answered by an empty frame if all is well, or by why not.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from random import Random
from typing import IO, Any

import msgspec
from msgspec import Struct

_LENGTH = struct.Struct(">Q")
# What C++ says when it gets no memory, or none for a thread.
_OUT_OF_MEMORY = ("bad_alloc", "Resource temporarily unavailable")
# Processor time that one token may take: which may follow, and what the one that does leads to.
# Chosen: twenty times what structures took that people write, and a pause that a reader bears once.
MAX_TOKEN_S = 0.25
# Of the texts that are written by each. Chosen: as long as a structure's ways usually last to part.
_NUM_TEXTS, _NUM_TOKENS = 2, 48


class Asked(Struct, frozen=True):
    """A call of xgrammar's compiler."""

    method: str
    text: str
    options: dict[str, Any]


def read_frame(read: Callable[[int], bytes]) -> bytes | None:
    """None: nothing more comes. `read` returns as many bytes as it is asked for, or the rest."""
    head = read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = read(length)
    return body if len(body) == length else None


def frame(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body


def _answer(compiler: Any, asked: Asked) -> bytes:
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in asked.options.items()}
    try:
        compiled = getattr(compiler, asked.method)(asked.text, **options)
        if not all(_keeps_pace(compiled, Random(seed)) for seed in range(_NUM_TEXTS)):
            return f"it takes more than {MAX_TOKEN_S:g} s to tell what may follow".encode()
    except Exception as error:  # of what kind depends on the version, and on what is wrong
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            os._exit(1)  # whoever asked knows what that means; nothing here can be relied on
        return str(error).encode() or b"it is not valid"
    return b""


def _keeps_pace(compiled: Any, chance: Random) -> bool:
    """Write a text of tokens that are drawn from all that may follow, but for its end."""
    import numpy as np
    import xgrammar

    size, ends = compiled.tokenizer_info.vocab_size, compiled.tokenizer_info.stop_token_ids
    matcher, mask = xgrammar.GrammarMatcher(compiled), xgrammar.allocate_token_bitmask(1, size)
    for _ in range(_NUM_TOKENS):
        start_s = time.thread_time()
        matcher.fill_next_token_bitmask(mask)
        bits = np.unpackbits(mask.numpy().view(np.uint8)[0], bitorder="little")
        bits[list(ends)] = 0
        may_follow = np.flatnonzero(bits[:size])
        if len(may_follow):
            matcher.accept_token(int(chance.choice(may_follow)))
        if time.thread_time() - start_s > MAX_TOKEN_S:
            return False
        if not len(may_follow):
            break
    return True


def _limit_memory(max_mib: int) -> None:
    with open("/proc/self/statm") as file:
        now_bytes = int(file.read().split()[0]) * resource.getpagesize()
    limit = now_bytes + max_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(
    source: IO[bytes], sink: IO[bytes], max_mib: int, max_cpu_s: int, num_threads: int
) -> None:
    import xgrammar

    tokenizer = read_frame(source.read)
    if tokenizer is None:
        return
    info = xgrammar.TokenizerInfo.deserialize_json(tokenizer.decode())
    compiler = xgrammar.GrammarCompiler(info, max_threads=num_threads, cache_enabled=False)
    _limit_memory(max_mib)
    sink.write(frame(b""))
    sink.flush()
    while (asked := read_frame(source.read)) is not None:
        signal.setitimer(signal.ITIMER_PROF, max_cpu_s)  # though whoever asked may be gone
        answer = _answer(compiler, msgspec.json.decode(asked, type=Asked))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sink.write(frame(answer))
        sink.flush()


def main() -> None:
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not be taken for an answer
    _serve(sys.stdin.buffer, sink, *map(int, sys.argv[1:]))


if __name__ == "__main__":
    main()
