"""`python -m benchmarks.fuzz --seed N`: hostile messages and bodies, to real fronts in one process.

Of each must come an answer that is the sender's fault, or a right one: no 500, no INTERNAL, and
nothing that grows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import grpc
from starlette.types import Message

from benchmarks.faults.network import Call, Replica
from benchmarks.faults.virtual import run
from wisp import errors, wire
from wisp.access.gate import Gate
from wisp.core.drafts import DraftBlock
from wisp.core.request import Request, Sampling, Structure
from wisp.core.slo import Slo
from wisp.openai.routes import create_app
from wisp.server.servicer import WispServicer
from wisp.status import error_of
from wisp.testing.local import LocalServer, tokenizer

NUMBERS: list[Any] = [0, -1, 1, 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), 10**400, 0.5, -1e308]
HOSTILE: list[Any] = [
    *NUMBERS,
    None,
    True,
    "",
    "x" * 1000,
    "\x00\ud7ff\u202e",
    [],
    {},
    [None],
    [[[]]],
    {"a": {"b": []}},
    [1] * 100,
    ["x"] * 20,
]
MAX_MODEL_LEN = 100  # tokens; chosen: an answer without a limit of its own is short, too
BODIES: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/completions",
        {
            "prompt": "a b",
            "max_tokens": 3,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.1,
            "logit_bias": {"5": 1.0},
            "stop": ["x"],
            "seed": 1,
            "logprobs": 2,
            "n": 1,
            "stop_token_ids": [7],
            "min_tokens": 1,
            "wisp": {"slo": {"tokens_per_s": 1.0, "first_token_s": 1.0}, "speculation": True},
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "system", "content": "a"},
                {"role": "user", "content": [{"type": "text", "text": "b"}], "name": "c"},
            ],
            "max_completion_tokens": 3,
            "logprobs": True,
            "top_logprobs": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
            "response_format": {"type": "text"},
            "chat_template_kwargs": {"x": 1},
            "tools": [],
            "tool_choice": "none",
            "metadata": {"a": "b"},
        },
    ),
    (
        "/v1/responses",
        {
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
            "instructions": "b",
            "max_output_tokens": 3,
            "temperature": 0.5,
            "text": {"format": {"type": "text"}},
            "stream": True,
        },
    ),
    ("/v1/completions", {"prompt": [[1, 2], [3]], "max_tokens": 2, "n": 2, "echo": True}),
    ("/v1/completions", {"prompt": "a b c", "echo": True, "max_tokens": 1, "stream": True}),
    (
        "/tokenize",
        {"messages": [{"role": "user", "content": "a"}], "return_token_strs": True},
    ),
    ("/tokenize", {"prompt": "a b", "add_special_tokens": False}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]


def mutated(rng: Random, value: Any) -> Any:
    """The same with one or more places changed."""
    if rng.random() < 0.15:
        return rng.choice(HOSTILE)
    if isinstance(value, dict):
        changed = {
            key: mutated(rng, each) if rng.random() < 0.3 else each for key, each in value.items()
        }
        if rng.random() < 0.1:
            changed[rng.choice(["x", "", "tools", "\x00", "messages", "n"])] = rng.choice(HOSTILE)
        if changed and rng.random() < 0.1:
            del changed[rng.choice(list(changed))]
        return changed
    if isinstance(value, list):
        return [mutated(rng, each) if rng.random() < 0.3 else each for each in value]
    return value


def scrambled(rng: Random, data: bytes) -> bytes:
    """With a few bytes changed, cut out or doubled."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            break
        at = rng.randrange(len(changed))
        match rng.randrange(3):
            case 0:
                changed[at] = rng.randrange(256)
            case 1:
                del changed[at : at + rng.randint(1, 8)]
            case _:
                changed[at:at] = changed[at : at + rng.randint(1, 8)]
    return bytes(changed)


def make_body(rng: Random, model: str) -> tuple[str, bytes]:
    path, fields = rng.choice(BODIES)
    changed = mutated(rng, fields)
    data = {"model": model} | changed if isinstance(changed, dict) else changed
    body = json.dumps(data).encode()
    return path, scrambled(rng, body) if rng.random() < 0.2 else body


async def ask(app: Any, path: str, body: bytes) -> tuple[int, bytes]:
    """One request, and its whole answer."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"x")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent: list[Message] = []
    asked = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        for message in asked:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        await app(scope, receive, send)
    except Exception as error:
        return 500, repr(error).encode()
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def http(rng: Random, num_bodies: int) -> Counter[str]:
    server = LocalServer(step_s=0.0, max_model_len=MAX_MODEL_LEN)
    app = create_app(server.service)
    found: Counter[str] = Counter()
    for _ in range(num_bodies):
        path, body = make_body(rng, server.service.card.id)
        status, answer = await ask(app, path, body)
        found[str(status)] += 1
        if status >= 500 or (status != 200 and b'"error"' not in answer):
            found["bad"] += 1
            if found["bad"] <= 3:
                print(status, path, body[:500], answer[:300])
    await server.engine.idle.wait()
    found["left"] = server.engine.num_sessions + len(server.engine.engine.sessions)
    await server.stop()
    return found


def make_open(rng: Random) -> bytes:
    def number() -> int:
        return rng.choice([0, 1, 5, 4095, 4096, 2**31 - 1, 2**32 - 1])

    sampling = Sampling(
        max_tokens=rng.choice([1, 5, 50, 2**32 - 1]),
        seed=rng.randrange(2**64),
        temperature=rng.choice([0.0, 1.0, -1.0, float("nan"), float("inf"), 1e300]),
        top_p=rng.choice([0.0, 1.0, 2.0, float("nan")]),
        top_k=number(),
        logit_bias={number(): rng.choice([1.0, 101.0, float("nan")]) for _ in range(2)},
        min_tokens=number(),
        stop_token_ids=tuple(number() for _ in range(2)),
        num_logprobs=rng.choice([None, 0, 20, 21]),
        structure=rng.choice([None, Structure("regex", "a"), Structure("x", "")]),
    )
    if rng.random() < 0.7:
        sampling = Sampling(max_tokens=50, seed=1)
    request = Request(
        prompt=[number() if rng.random() < 0.05 else 7 for _ in range(rng.randint(0, 9))],
        committed=[7] * rng.choice([0, 0, 0, 3, 60]),
        sampling=sampling,
        model=rng.choice(["", "scripted", "x"]),
        slo=rng.choice([None, "batch", "x", Slo(tokens_per_s=float("nan"), first_token_s=1)]),
    )
    own = tokenizer().fingerprint
    hello = wire.Hello(
        tokenizer_fingerprint=own if rng.random() < 0.95 else "x",
        device=rng.choice(["mine", "\x00\u202e" * 50]),
        protocol=rng.choice([wire.PROTOCOL, wire.PROTOCOL, 0, 99]),
        resume_key=rng.choice([b"", b"same", rng.randbytes(16), b"x" * 65]),
    )
    return wire.encode_open(request, hello).SerializeToString()


def make_draft(rng: Random) -> bytes:
    tokens = [rng.choice([0, 7, 4096, 2**32 - 1]) for _ in range(rng.choice([0, 1, 4, 65]))]
    block = DraftBlock(
        epoch=rng.choice([0, 1, 2, 2**32 - 1]),
        position=rng.choice([0, 3, 5, 10, 2**32 - 1]),
        tokens=tokens,
        acceptance=[rng.random() for _ in tokens],
        draft_time_s=rng.choice([0.0, 0.1]),
        complete=rng.random() < 0.5,
    )
    return wire.encode_draft(block).SerializeToString()


class RawMessage:
    """Bytes that are sent as they are."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:
        return self._data

    def HasField(self, name: str) -> bool:
        return False


async def wire_fuzz(rng: Random, num_messages: int) -> Counter[str]:
    server = LocalServer(step_s=0.0)
    replica = Replica("one")
    replica.servicer = WispServicer(server.service, server.telemetry, Gate(), 30.0)
    found: Counter[str] = Counter()
    while found["messages"] < num_messages:
        call = Call(replica, (), f"address {rng.randrange(50)}", rng)
        messages = [make_open(rng), *(make_draft(rng) for _ in range(rng.randint(0, 8)))]
        for data in messages:
            if rng.random() < 0.15:
                data = scrambled(rng, data)
            await call.write(RawMessage(data))
            found["messages"] += 1
        left = rng.random() < 0.2
        try:
            async for _ in call:
                if left:
                    break
            found["ended"] += 1
        except grpc.aio.AioRpcError as failure:
            kind = type(error_of(failure))
            found[kind.__name__] += 1
            if kind in (errors.InternalError, errors.Unavailable):
                found["bad"] += 1
                print([data.hex() for data in messages], failure.details())
        call.cancel()
    await asyncio.sleep(60.0)
    found["left"] = server.engine.num_sessions + len(server.engine.engine.sessions)
    found["left"] += len(server.telemetry.sessions) + server.service.num_owned
    await server.stop()
    return found


def memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, fuzz: Callable[[int], Counter[str]], number: int) -> bool:
    """The first tenth may fill caches; from there on nothing may grow."""
    fuzz(number // 10)
    before, start_s = memory_mib(), time.perf_counter()
    found = fuzz(number)
    grown = memory_mib() - before
    took_s = time.perf_counter() - start_s
    print(f"{name}: {number} in {took_s:.0f} s, {dict(found)}, grown by {grown:.0f} MiB")
    return not found["bad"] and not found["left"] and grown < 64


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--bodies", type=int, default=2000)
    asked = parser.parse_args()
    rng = Random(asked.seed)
    good = [
        measure("messages", lambda n: run(lambda: wire_fuzz(rng, n)), asked.messages),
        measure("bodies", lambda n: asyncio.run(http(rng, n)), asked.bodies),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
