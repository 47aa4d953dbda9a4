"""The process of a drafter on vLLM: both of its ends. An engine that dies takes no answer with it.

It leaves when its edge does, as nobody holds the other end of the pipe any more.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from wisp.core.extension import Extension, Fork, Ranking
from wisp.errors import ConfigError, InternalError, Unavailable, why_not_started
from wisp.models.draft_vocabulary import Vocabulary, read_vocabulary

log = logging.getLogger(__name__)

# How long a step may take before the process is given up. Chosen: kernels that are compiled when
# they are first needed take less, and until then the texts go on without drafts.
PATIENCE_S = 60.0
# How long it may take to start: a large model is read from a slow disk, and its graphs are
# captured. Chosen: twice what the slowest start of a target took that was seen, 190 s.
_START_S = 400.0
# Steps in a row that may fail before the process is given up: a card may be out of order and its
# process none the wiser. Chosen: a text at fault fails twice, beside others and then alone.
_MAX_FAILED = 5


@dataclass(frozen=True)
class DraftSettings:
    """What `wisp.verifier.vllm.load_drafter` is given, and on which device."""

    directory: Path
    max_slots: int
    max_model_len: int | None
    memory_share: float
    dtype: str | None
    device: str
    options: dict[str, Any] = field(default_factory=dict)
    log_level: str = "INFO"


@dataclass(frozen=True)
class _Ready:
    max_model_len: int
    num_logits: int
    vocabulary: Vocabulary


@dataclass(frozen=True)
class _Failed:
    why: str


class DraftProcess:
    """The edge's end. One caller, one thread; what it is and `stop` may be asked from any."""

    def __init__(self, settings: DraftSettings, patience_s: float = PATIENCE_S) -> None:
        """Raises ConfigError if the model cannot be served."""
        self._settings = settings
        self.patience_s = patience_s
        self.on_end: Callable[[], None] = lambda: None  # called in a thread of its own
        self._is_stopped = False
        self.start()

    def start(self) -> None:
        """Anew if it has ended. Raises ConfigError if the model cannot be served."""
        self._is_ready, self._why, self._num_failed = False, "", 0
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        process = context.Process(
            target=_run, args=(other, self._settings), name="wisp-drafter", daemon=True
        )
        process.start()
        other.close()
        self._process, self._gone = process, threading.Event()
        threading.Thread(target=self._watch, name="wisp-drafter-watch", daemon=True).start()
        if self._is_stopped:
            self._process.kill()
        try:
            answer = self._receive(_START_S)
        except Unavailable as error:
            raise ConfigError(f"the drafter's engine cannot start: {error}") from error
        if isinstance(answer, _Failed):
            self._left(answer.why)
            raise ConfigError(answer.why)
        assert isinstance(answer, _Ready)
        self.max_model_len = answer.max_model_len
        self.num_logits = answer.num_logits
        self.vocabulary = answer.vocabulary
        self._is_ready = True

    def _watch(self) -> None:
        """Nobody else waits for the process: of two, one would not be told its exit code."""
        process, gone = self._process, self._gone
        wait([process.sentinel])
        process.join()
        gone.set()
        self.on_end()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def ended(self) -> str | None:
        """Why nothing can be asked of it; None: it can."""
        if self._is_ready and not self._gone.is_set():
            return None
        if not self._gone.is_set():
            return "the drafter's process is starting"
        return self._why or f"the drafter's process has ended with code {self._process.exitcode}"

    def extend(
        self, ended: Sequence[int], forks: Sequence[Fork], extensions: Sequence[Extension]
    ) -> Ranking:
        """As `DraftModel.extend`. Raises Unavailable if the process is gone, InternalError if it
        failed in this step alone."""
        try:
            self._pipe.send((ended, forks, extensions))
        except OSError as error:
            raise self._left() from error
        answer = self._receive(self.patience_s)
        if isinstance(answer, _Failed):
            self._num_failed += 1
            if self._num_failed >= _MAX_FAILED:
                raise self._left(f"{_MAX_FAILED} of its steps in a row failed: {answer.why}")
            raise InternalError(answer.why)
        assert isinstance(answer, Ranking)
        self._num_failed = 0
        return answer

    def stop(self) -> None:
        """For good: whoever waits for its answer is told that it has ended."""
        self._is_stopped = True
        self._process.kill()  # it has nothing to save
        self._gone.wait()

    def _receive(self, patience_s: float) -> object:
        try:
            if self._pipe.poll(patience_s):
                answer: object = self._pipe.recv()
                return answer
        except (EOFError, OSError) as error:
            raise self._left() from error
        raise self._left(f"the drafter's process has said nothing for {patience_s:g} s")

    def _left(self, why: str = "") -> Unavailable:
        """It has ended; or is of no use any more, for the reason given."""
        if why:
            self._why = why
            self._process.kill()
        self._gone.wait()
        return Unavailable(self.ended or "")


def _run(pipe: Connection, settings: DraftSettings) -> None:
    """The body of the process."""
    os.dup2(2, 1)  # what is said on standard output is the edge's own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the edge decides when to leave
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    form = "%(asctime)s drafter %(levelname)s %(message)s"
    logging.basicConfig(level=settings.log_level, format=form)
    _choose_card(settings.device)
    try:
        model = _load(settings)
        vocabulary = read_vocabulary(settings.directory, model.num_logits)
        model.speak(vocabulary)
    except Exception as error:
        pipe.send(_Failed(why_not_started("the drafter's engine", error, log)))
        return
    pipe.send(_Ready(model.max_model_len, model.num_logits, vocabulary))
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            break
        try:
            pipe.send(model.extend(*asked))
        except Exception as error:
            log.exception("a step of the drafter failed")
            pipe.send(_Failed(str(error)))
    model.shutdown()


def _load(settings: DraftSettings) -> Any:
    from wisp.verifier.vllm import load_drafter

    return load_drafter(
        settings.directory,
        max_slots=settings.max_slots,
        max_model_len=settings.max_model_len,
        memory_share=settings.memory_share,
        dtype=settings.dtype,
        options=settings.options,
    )


def _choose_card(device: str) -> None:
    """To be called before CUDA is: vLLM takes the first cards that it sees."""
    found = re.fullmatch(r"cuda:(\d+)", device)
    if found is None:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = visible.split(",") if visible else []
    number = int(found[1])
    os.environ["CUDA_VISIBLE_DEVICES"] = cards[number] if number < len(cards) else str(number)
