"""The load generator from outside: its processes, what the server says, and one row for a load."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import reduce
from types import TracebackType
from typing import Any

import httpx

from benchmarks.load.score import Stats, percentile_ms
from benchmarks.load.worker import Demand, Setting, shares, work
from wisp.errors import Unavailable

Row = dict[str, Any]
_REPLY_S = 30.0
# Drafts that steps verified; sessions at the window's end, by where their KV is; tokens a second
# whose KV came back or was given up.
_OF_KV = (
    "drafts_per_step",
    "open",
    "parked",
    "without_kv",
    "loaded_per_s",
    "evicted_per_s",
    "late_loads_per_s",
)
_LOOK, _HOPELESS = 0.5, 0.6  # after that share of a window, an attainment that ends it


class Fleet:
    """Owns the processes; a context manager that ends them."""

    def __init__(self, setting: Setting, num_workers: int) -> None:
        """Raises Unavailable if they cannot reach the server."""
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        self._processes = []
        for share in shares(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, setting, share), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._replies()

    def serve(self, demand: Demand) -> None:
        self._tell(demand)

    def begin_window(self) -> None:
        self._tell("window begins")

    def end_window(self) -> Stats:
        found: list[Stats] = self._tell("window ends")
        return reduce(Stats.plus, found)

    def _tell(self, command: object) -> list[Any]:
        for pipe in self._pipes:
            with contextlib.suppress(BrokenPipeError):  # the reply will be missed
                pipe.send(command)
        return self._replies()

    def _replies(self) -> list[Any]:
        replies = []
        for pipe in self._pipes:
            try:
                if not pipe.poll(_REPLY_S):
                    raise Unavailable("a process of the load generator does not answer")
                replies.append(pipe.recv())
            except EOFError:
                raise Unavailable("a process of the load generator has ended") from None
        return replies

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(BrokenPipeError):
                pipe.send("stop")
        for process in self._processes:
            process.join(5.0)
            if process.is_alive():
                process.kill()


class Server:
    """A running server, from its public face. `alive` says whether its process still is."""

    def __init__(self, url: str, alive: Callable[[], bool] = lambda: True) -> None:
        self.url = url
        self._alive = alive
        self._client = httpx.Client(base_url=url, timeout=20.0)

    def switch(self, choice: dict[str, Any]) -> None:
        """Raises Unavailable if it is gone, or keeps its policy."""
        response = self._ask("POST", "/v1/policy", json=choice)
        if response.status_code != 200:
            raise Unavailable(f"the server does not switch to {choice}: {response.text}")

    def counters(self) -> dict[str, float]:
        """Its metrics; of a server that is not WISP's they are not used."""
        return counted(self._ask("GET", "/metrics").text)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        if not self._alive():
            raise Unavailable("the server has ended: its log says why")
        try:
            return self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise Unavailable(f"the server at {self.url} does not answer: {error!r}") from error


def counted(metrics: str) -> dict[str, float]:
    """WISP's of a page of metrics; those with labels are added up."""
    found: dict[str, float] = defaultdict(float)
    for match in re.finditer(r"^(wisp_\w+)(?:{.*})? (\S+)$", metrics, re.MULTILINE):
        if not match[1].endswith("_bucket"):
            found[match[1]] += float(match[2])
    return dict(found)


class GpuUse:
    """The GPU's own word on how busy it is (nvidia-smi), sampled while the context is open."""

    def __enter__(self) -> GpuUse:
        self._samples: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def mean(self) -> float | None:
        return sum(self._samples) / len(self._samples) / 100 if self._samples else None

    def _sample(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        if ours := os.environ.get("CUDA_VISIBLE_DEVICES"):
            command.append(f"--id={ours}")
        while not self._done.wait(1.0):
            try:
                found = subprocess.run(command, capture_output=True, text=True, timeout=10.0)
                self._samples.append(max(map(float, found.stdout.split())))
            except (OSError, ValueError, subprocess.TimeoutExpired):
                return  # there is none


def measure(fleet: Fleet, server: Server, demand: Demand, warm_s: float, measure_s: float) -> Row:
    """The load runs on; `warm_s` after it changed the window begins.

    It is cut short where it is plain that most promises are broken.
    """
    fleet.serve(demand)
    time.sleep(warm_s)
    before, start_s = server.counters(), time.monotonic()
    fleet.begin_window()
    with GpuUse() as gpu:
        time.sleep(_LOOK * measure_s)
        if fleet.end_window().attainment > _HOPELESS:
            time.sleep((1.0 - _LOOK) * measure_s)
    stats, time_s = fleet.end_window(), time.monotonic() - start_s
    found = row(stats, time_s) | steps(before, server.counters(), time_s)
    return found | {"gpu_use": _rounded(gpu.mean), "measured_s": round(time_s, 1)}


def row(stats: Stats, time_s: float) -> Row:
    between_s = stats.between_tokens_s()
    examined = stats.num_examined
    return {
        "attainment": _rounded(stats.attainment),
        "goodput": round(stats.num_in_time / time_s, 1),
        "tokens_per_s": round(stats.num_tokens / time_s, 1),
        "tokens_per_round": round(stats.num_tokens / max(1, stats.num_rounds), 2),
        "accepted": _rounded(stats.num_accepted / examined if examined else None),
        "ttft_p50_ms": percentile_ms(stats.first_token_s, 0.5),
        "ttft_p99_ms": percentile_ms(stats.first_token_s, 0.99),
        "turns": len(stats.turn_first_token_s),  # that go on with a conversation
        "turn_ttft_p50_ms": percentile_ms(stats.turn_first_token_s, 0.5),
        "turn_ttft_p90_ms": percentile_ms(stats.turn_first_token_s, 0.9),
        "itl_p50_ms": percentile_ms(between_s, 0.5),
        "itl_p90_ms": percentile_ms(between_s, 0.9),
        "itl_p99_ms": percentile_ms(between_s, 0.99),
        "judged": stats.num_judged,
        "refused": stats.num_refused,
        "errors": stats.num_errors,
        "wrong": stats.num_wrong,
        "late_p99_ms": percentile_ms(stats.late_s, 0.99),
    }


def steps(before: dict[str, float], after: dict[str, float], time_s: float) -> Row:
    """What the server's metrics say of its steps meanwhile; empty for a server that has none."""

    def more(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    count = more("wisp_step_seconds_count")
    if not count:
        return dict.fromkeys(("busy", "step_ms", "sessions_per_step", "tokens_per_step", *_OF_KV))
    return {
        "busy": _rounded(more("wisp_step_seconds_sum") / time_s),
        "step_ms": round(1000 * more("wisp_step_seconds_sum") / count, 2),
        "sessions_per_step": round(more("wisp_step_sessions_sum") / count, 1),
        "tokens_per_step": round(more("wisp_step_tokens_sum") / count, 1),
        "drafts_per_step": round(more("wisp_drafts_verified_total") / count, 1),
        "open": after.get("wisp_sessions"),
        "parked": after.get("wisp_sessions_parked"),
        "without_kv": after.get("wisp_sessions_waiting_for_kv"),
        "loaded_per_s": round(more("wisp_kv_loaded_tokens_total") / time_s),
        "evicted_per_s": round(more("wisp_kv_evicted_tokens_total") / time_s),
        "late_loads_per_s": round(more("wisp_kv_late_loads_total") / time_s, 1),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
