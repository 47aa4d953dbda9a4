"""How long a conversation that comes back waits for its first token, by where its KV is.

Each conversation has a history of `HISTORY_TOKENS`; its next turn adds `QUESTION_TOKENS`, and is
answered with one token while the server does nothing else. `stayed`: the turn comes at once.
`returned`: others have filled the GPU's KV memory since. `new`: nobody has ever seen the
conversation.
"""

from __future__ import annotations

import statistics
import time
from random import Random

import httpx

from benchmarks.load.campaign import Campaign
from benchmarks.load.fleet import Row
from benchmarks.load.servers import MAX_MODEL_LEN
from wisp.errors import Unavailable

# Chosen: what fits into the context of the suite's servers, and is long for a chat.
HISTORY_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = MAX_MODEL_LEN - 200, 64, 32
NUM_CONVERSATIONS = 5  # of each kind; chosen: their median is told
# wisp-server computes a prompt in the time that was promised; this makes it as quick as it can.
_AT_ONCE = {"slo": {"tokens_per_s": 20.0, "first_token_s": 0.05}}


def turns(campaign: Campaign, *, kv_tokens: int, vocab_size: int, seed: int) -> Row:
    """One row, in milliseconds. Raises Unavailable."""
    chance = Random(seed)
    num_others = -(-kv_tokens * 5 // 4 // HISTORY_TOKENS)  # a quarter more than there is room for

    def text(length: int) -> list[int]:
        return [chance.randrange(1000, vocab_size) for _ in range(length)]

    with httpx.Client(base_url=campaign.url, timeout=60.0) as client:
        model = client.get("/v1/models").json()["data"][0]

        def answer_s(prompt: list[int], num_tokens: int) -> float:
            body = {"model": model["id"], "prompt": prompt, "max_tokens": num_tokens}
            more = {"wisp": _AT_ONCE} if model["owned_by"] == "wisp" else {"ignore_eos": True}
            sent_s = time.monotonic()
            response = client.post("/v1/completions", json=body | more | {"temperature": 0.0})
            if response.status_code != 200:
                raise Unavailable(f"{response.status_code}: {response.text[:200]}")
            return time.monotonic() - sent_s

        def turn_s(others: int) -> float:
            history = text(HISTORY_TOKENS)
            answer_s(history, ANSWER_TOKENS)
            for _ in range(others):
                answer_s(text(HISTORY_TOKENS), 1)
            last = history[-1]
            answer = [(last + n) % vocab_size for n in range(1, ANSWER_TOKENS + 1)]
            return answer_s([*history, *answer, *text(QUESTION_TOKENS)], 1)

        answer_s(text(HISTORY_TOKENS), 1)  # what is done once by a server
        kinds = {
            "stayed": [turn_s(0) for _ in range(NUM_CONVERSATIONS)],
            "returned": [turn_s(num_others) for _ in range(NUM_CONVERSATIONS)],
            "new": [answer_s(text(HISTORY_TOKENS), 1) for _ in range(NUM_CONVERSATIONS)],
        }
    row: Row = {"history_tokens": HISTORY_TOKENS, "conversations": NUM_CONVERSATIONS}
    for kind, found in kinds.items():
        row[f"{kind}_ms"] = round(1e3 * statistics.median(found), 1)
        row[f"{kind}_most_ms"] = round(1e3 * max(found), 1)
    return row | {"ratio": round(row["returned_ms"] / row["stayed_ms"], 2)}
