"""The CPU part: corpus -> tokenizer, token arrays and the held-out prompts."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray as Array
from tokenizers import Tokenizer

from training.chat import Exchange, exchanges
from training.corpus import Document, read_documents
from training.tokenizer import END_OF_TEXT, IM_END, IM_START, save_tokenizer, train_tokenizer

# Of everything drawn at random here; chosen: any number does, and one makes it repeatable.
SEED = 20_260
MAX_LENGTH = 2048
SYSTEM_PROMPTS = ("You are a helpful assistant.", "You are an assistant for Python programmers.")
NUM_PROMPTS = 160
MIN_PROMPT_TOKENS, MAX_PROMPT_TOKENS = 8, 48
REFERENCE_TOKENS = 128

BUNDLED_PROMPTS = Path("wisp/models/tiny/prompts.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, required=True, help="folder of the *.rst.txt sources")
    parser.add_argument("--lib", type=Path, help="Lib folder; the running Python's by default")
    parser.add_argument("--out", type=Path, default=Path(".pair/data"))
    parser.add_argument("--prompts", type=Path, default=BUNDLED_PROMPTS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.prompts.parent.mkdir(parents=True, exist_ok=True)

    rng = random.Random(SEED)
    documents = read_documents(args.docs, args.lib)
    train = [document for document in documents if not document.held_out]
    held_out = [document for document in documents if document.held_out]
    train_chat = [exchange for document in train for exchange in exchanges(document, rng)]
    held_out_chat = [exchange for document in held_out for exchange in exchanges(document, rng)]
    conversations = render_conversations(train_chat, rng)

    tokenizer = train_tokenizer([*(document.text for document in train), *conversations[::4]])
    save_tokenizer(tokenizer, args.out / "tokenizer", MAX_LENGTH)
    rng.shuffle(train)  # neighbours in the stream should not be files of one folder
    text, _ = encode(tokenizer, (document.text + END_OF_TEXT for document in train))
    chat, chat_starts = encode(tokenizer, conversations)
    prompt_lengths = first_answers(tokenizer, chat, chat_starts) - chat_starts
    np.savez_compressed(
        args.out / "tokens.npz",
        text=text, chat=chat, chat_starts=chat_starts, chat_prompt_lengths=prompt_lengths,
    )  # fmt: skip

    prompts = [
        *text_prompts(tokenizer, held_out, rng),
        *chat_prompts(tokenizer, held_out_chat, rng),
    ]
    args.prompts.write_text(json.dumps(prompts, indent=1, ensure_ascii=True) + "\n")
    print(f"documents: {len(train)} train, {len(held_out)} held out")
    print(f"exchanges: {len(train_chat)} train, {len(held_out_chat)} held out")
    print(f"tokens: {text.size} text, {chat.size} chat; prompts: {len(prompts)}")


def render_conversations(chat: list[Exchange], rng: random.Random) -> list[str]:
    """Conversations of one to three exchanges, some under a system prompt, in random order."""
    chat = list(chat)
    rng.shuffle(chat)
    rendered = []
    while chat:
        num_turns = min(len(chat), rng.choices((1, 2, 3), (80, 15, 5))[0])
        turns = [turn("system", rng.choice(SYSTEM_PROMPTS))] if rng.random() < 0.2 else []
        for exchange in (chat.pop() for _ in range(num_turns)):
            turns += [turn("user", exchange.question), turn("assistant", exchange.answer)]
        rendered.append("".join(turns) + END_OF_TEXT)
    return rendered


def turn(role: str, content: str) -> str:
    return f"{IM_START}{role}\n{content}{IM_END}\n"


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[Array[np.uint16], Array[np.int64]]:
    """All texts as one stream of tokens, and where each begins in it."""
    pieces = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    starts = np.cumsum([0, *(len(piece) for piece in pieces[:-1])]).astype(np.int64)
    return np.concatenate([np.asarray(piece, dtype=np.uint16) for piece in pieces]), starts


def first_answers(
    tokenizer: Tokenizer, chat: Array[np.uint16], starts: Array[np.int64]
) -> Array[np.int64]:
    """Where the first answer of each conversation begins."""
    header = np.asarray(tokenizer.encode(f"{IM_START}assistant\n").ids)
    windows = np.lib.stride_tricks.sliding_window_view(chat, header.size)
    answers = np.flatnonzero((windows == header).all(axis=1)) + header.size
    found: Array[np.int64] = answers[np.searchsorted(answers, starts)]
    return found


def text_prompts(
    tokenizer: Tokenizer, documents: list[Document], rng: random.Random
) -> list[dict[str, str]]:
    """Prompts that begin at a line of a held-out file and end between two tokens of it."""
    prompts: list[dict[str, str]] = []
    weights = [min(len(document.text), 40_000) for document in documents]
    while len(prompts) < NUM_PROMPTS // 2:
        (document,) = rng.choices(documents, weights)
        lines = [i for i, char in enumerate(document.text) if char == "\n"]
        start = rng.choice([0, *(i + 1 for i in lines)])
        ids = tokenizer.encode(document.text[start : start + 4000]).ids
        length = rng.randint(MIN_PROMPT_TOKENS + 4, MAX_PROMPT_TOKENS - 4)
        prompt = tokenizer.decode(ids[:length])
        reference = tokenizer.decode(ids[length : length + REFERENCE_TOKENS])
        if len(ids) >= length + REFERENCE_TOKENS and prompt.isascii() and len(prompt.split()) > 4:
            prompts.append({"kind": "text", "prompt": prompt, "reference": reference})
    return prompts


def chat_prompts(
    tokenizer: Tokenizer, chat: list[Exchange], rng: random.Random
) -> list[dict[str, str]]:
    """User messages whose rendered length lies within the bounds; no question twice."""
    fitting = {}
    for exchange in chat:
        rendered = turn("user", exchange.question) + f"{IM_START}assistant\n"
        if MIN_PROMPT_TOKENS <= len(tokenizer.encode(rendered).ids) <= MAX_PROMPT_TOKENS:
            fitting[exchange.question] = exchange.answer
    chosen = rng.sample(sorted(fitting.items()), NUM_PROMPTS // 2)
    return [
        {
            "kind": "chat",
            "prompt": question,
            "reference": tokenizer.decode(tokenizer.encode(answer).ids[:REFERENCE_TOKENS]),
        }
        for question, answer in chosen
    ]


if __name__ == "__main__":
    main()
