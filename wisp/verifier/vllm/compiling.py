"""A grammar is tried in a process with a limit of time and memory before it is compiled here.

A few characters can ask for an automaton of any size, and a compiler cannot be stopped but with its
process. What it made there does not come back: to write and to read that takes longer than to make
it. A thread that waits for it keeps nobody else waiting.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec
import xgrammar
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

from wisp.errors import Overloaded
from wisp.verifier.vllm.grammar_process import MAX_TOKEN_S, Asked, frame, read_frame

log = logging.getLogger(__name__)

# Processor time that a grammar may take to compile. Chosen: some four times what a schema of a
# hundred fields took with a vocabulary of 151,000 (2.7 s on a busy machine).
MAX_CPU_S = 10
# Memory that it may take. Chosen: more than twice what that took together with a copy (183 MiB).
MAX_MIB = 512
# Processes at once. Chosen: one is busy with a structure that is too large, the other is free.
_NUM_PROCESSES = 2
# Threads of each. Chosen: half of a small machine, as steps of the target need the rest.
_NUM_THREADS = 2
# How long one may take to leave whose end of the pipe is closed. Chosen: it is gone already.
_LAST_S = 0.5
# How long one may take to begin, or to answer. Chosen: ten times what it needs on an idle machine.
_PATIENCE_S = 60.0
# Grammars of which is known how they did. Chosen: more than applications ask for again and again,
# and little memory.
_MAX_KNOWN = 10_000


class GrammarError(ValueError):
    """It cannot be compiled: the sentence says why."""


class _Process:
    """Started when it is first needed, and again when it was ended."""

    def __init__(self, tokenizer: bytes, max_cpu_s: int, max_mib: int) -> None:
        self._tokenizer = tokenizer
        self._max_cpu_s = max_cpu_s
        self._max_mib = max_mib
        self._popen: subprocess.Popen[bytes] | None = None

    def ask(self, asked: bytes) -> str:
        """Why it cannot be compiled; empty if it can. Raises Overloaded if that cannot be tried."""
        if self._popen is None:
            self._start()
        answer = self._exchange(asked)
        if answer is not None:
            return answer.decode(errors="replace")
        code = self.stop()
        if code in (None, -signal.SIGPROF):
            return f"it takes more than {self._max_cpu_s} s to compile"
        return f"it takes more than {self._max_mib} MiB to compile"

    def stop(self) -> int | None:
        """Its exit code, if it had one of its own."""
        popen, self._popen = self._popen, None
        if popen is None:
            return None
        assert popen.stdin
        assert popen.stdout
        popen.stdin.close()
        try:
            code: int | None = popen.wait(_LAST_S)
        except subprocess.TimeoutExpired:
            code = None
            popen.kill()
            popen.wait()
        popen.stdout.close()
        return code

    def _start(self) -> None:
        module = "wisp.verifier.vllm.grammar_process"
        limits = self._max_mib, self._max_cpu_s, _NUM_THREADS
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, limits)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                # Each arena of the C library is 64 MiB of addresses, which would count.
                env=os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"},
            )
        except OSError as error:  # as where memory is short
            raise _not_tried(error) from error
        if self._exchange(self._tokenizer) is None:
            raise _not_tried(f"it has ended with code {self.stop()}")

    def _exchange(self, body: bytes) -> bytes | None:
        """The answer; None if the process has ended, or says nothing."""
        popen = self._popen
        assert popen
        assert popen.stdin
        assert popen.stdout
        end_s = time.monotonic() + _PATIENCE_S
        try:
            rest = memoryview(frame(body))
            while rest:
                rest = rest[popen.stdin.write(rest) :]
        except BrokenPipeError:
            return None
        source = popen.stdout.fileno()

        def read(num_bytes: int) -> bytes:
            parts: list[bytes] = []
            while num_bytes:
                left_s = end_s - time.monotonic()
                if left_s <= 0.0 or not select.select([source], [], [], left_s)[0]:
                    break
                part = os.read(source, min(num_bytes, 2**20))
                if not part:
                    break
                parts.append(part)
                num_bytes -= len(part)
            return b"".join(parts)

        return read_frame(read)


def _not_tried(why: object) -> Overloaded:
    """No fault of whoever asks."""
    log.error("the process that tries grammars does not start: %s", why)
    return Overloaded("structures cannot be tried now: send the request again later")


class Compiler:
    """Stands before xgrammar's compiler, as vLLM's backend knows it. Called by several threads."""

    def __init__(
        self,
        compiler: xgrammar.GrammarCompiler,
        *,
        max_cpu_s: int = MAX_CPU_S,
        max_mib: int = MAX_MIB,
    ) -> None:
        self._compiler = compiler
        tokenizer = compiler.compile_grammar('root ::= "a"').tokenizer_info
        written = tokenizer.serialize_json().encode()
        self._processes = [_Process(written, max_cpu_s, max_mib) for _ in range(_NUM_PROCESSES)]
        self._free: queue.LifoQueue[_Process] = queue.LifoQueue()
        for process in self._processes:
            self._free.put(process)
        self._lock = threading.Lock()
        self._tried: OrderedDict[bytes, str] = OrderedDict()  # and why they are refused; "": not

    def compile_json_schema(self, schema: str, **options: Any) -> Any:
        return self._compile("compile_json_schema", schema, options)

    def compile_grammar(self, grammar: str, **options: Any) -> Any:
        return self._compile("compile_grammar", grammar, options)

    def compile_lark(self, grammar: str, **options: Any) -> Any:
        return self._compile("compile_lark", grammar, options)

    def compile_regex(self, regex: str) -> Any:
        return self._compile("compile_regex", regex, {})

    def compile_structural_tag(self, tag: str) -> Any:
        return self._compile("compile_structural_tag", tag, {})

    def stop(self) -> None:
        for process in self._processes:
            process.stop()

    def _compile(self, method: str, text: str, options: dict[str, Any]) -> Any:
        """An `xgrammar.CompiledGrammar`. Raises GrammarError, or Overloaded as `_Process.ask`."""
        asked = msgspec.json.encode(Asked(method, text, options))
        key = hashlib.sha256(asked).digest()
        with self._lock:
            why = self._tried.get(key)
        if why is None:
            why = self._try(asked)
            with self._lock:
                self._tried[key] = why
                while len(self._tried) > _MAX_KNOWN:
                    self._tried.popitem(last=False)
        if why:
            raise GrammarError(why)
        return getattr(self._compiler, method)(text, **options)

    def _try(self, asked: bytes) -> str:
        process = self._free.get()
        try:
            return process.ask(asked)
        finally:
            self._free.put(process)


class Paced(StructuredOutputGrammar):  # type: ignore[misc]  # vLLM has no types here
    """Another grammar, and whether some token of it took too long."""

    def __init__(self, grammar: Any) -> None:
        self._grammar = grammar
        self.slow = False

    def accept_tokens(self, request_id: str, tokens: list[int]) -> Any:
        return self._timed(self._grammar.accept_tokens, request_id, tokens)

    def validate_tokens(self, tokens: list[int]) -> Any:
        return self._timed(self._grammar.validate_tokens, tokens)

    def fill_bitmask(self, bitmask: Any, batch_index: int) -> None:
        self._timed(self._grammar.fill_bitmask, bitmask, batch_index)

    def rollback(self, num_tokens: int) -> None:
        self._grammar.rollback(num_tokens)

    def is_terminated(self) -> Any:
        return self._grammar.is_terminated()

    def reset(self) -> None:
        self._grammar.reset()

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        start_s = time.thread_time()  # of this thread alone: the machine may be busy
        result = call(*arguments)
        self.slow = self.slow or time.thread_time() - start_s > MAX_TOKEN_S
        return result


class _Backend(XgrammarBackend):  # type: ignore[misc]
    def compile_grammar(self, *args: Any, **options: Any) -> Paced:
        return Paced(super().compile_grammar(*args, **options))


def use(manager: StructuredOutputManager) -> Compiler:
    """Let vLLM compile nothing that was not tried."""
    config = manager.vllm_config
    backend = _Backend(
        config, tokenizer=manager.tokenizer, vocab_size=config.model_config.get_vocab_size()
    )
    # It logs a trace, with the grammar, for each that is refused: anybody may send as many.
    logging.getLogger("vllm.v1.structured_output").setLevel(logging.CRITICAL)
    backend.compiler = compiler = Compiler(backend.compiler)
    manager.backend = backend
    return compiler
