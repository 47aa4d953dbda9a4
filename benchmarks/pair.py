"""Acceptance and coverage of the real pair, by kind of question, temperature and drafter.

    python -m benchmarks.pair [--json] [--questions 10] [--tokens 32] [--drafts torch Q8_0 Q4_0]
                              [--human-eval HumanEval.jsonl]

The target answers some questions of each kind; at every position of its text each drafter names
candidates with the noise of the target's choice, as an edge does. A rejection is covered if one of
the other candidates is the choice. GGUF kinds are exported first, and need the extra `llama`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from benchmarks.setting import describe, setting
from wisp.config import SMOLLM2, EdgeConfig
from wisp.core.request import Sampling
from wisp.edge.drafter.base import Drafter, DraftJob
from wisp.edge.drafter.load import load_drafter
from wisp.models.public.catalogue import find
from wisp.models.public.export import Kind, export
from wisp.models.public.library import installed
from wisp.models.slots import Item, SlotModel
from wisp.models.tokenizer import Tokenizer
from wisp.sampling.choice import choose
from wisp.sampling.processors import Row
from wisp.verifier.torch import eos_token_ids

SEED = 500  # of the noise of the first answer; chosen: any number does, and one makes it repeatable
TEMPERATURES = (0.0, 0.8, 1.2)
MAX_LEN = 768  # tokens of question and answer; chosen: HumanEval's longest has 500
TORCH = "torch"


class Answer(NamedTuple):
    kind: str
    tokens: list[int]
    num_prompt: int
    sampling: Sampling


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--questions", type=int, default=10, help="of each kind")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--human-eval", type=Path, help="its tasks, as JSON lines")
    parser.add_argument(
        "--drafts", nargs="+", default=[TORCH, "Q8_0"], choices=[TORCH, *get_args(Kind)]
    )
    options = parser.parse_args()
    target = installed(find("smollm2"))
    if target is None:
        raise SystemExit("the target is not here: wisp models get smollm2")
    tokenizer = Tokenizer(target)
    asked = questions(options.questions, options.human_eval)
    prompts = [
        (kind, tokenizer.encode_chat([{"role": "user", "content": text}])) for kind, text in asked
    ]
    answers = write(target, prompts, options.tokens)
    rows = []
    with tempfile.TemporaryDirectory(prefix="wisp-pair-") as folder:
        for name in options.drafts:
            drafter = load(name, Path(folder), tokenizer, len(prompts))
            rows += [{"drafter": name, **row} for row in judge(drafter, answers)]
    about = setting(SEED, questions=options.questions, tokens=options.tokens)
    if options.json:
        print(json.dumps({"setting": about, "rows": rows}))
        return
    print(describe(about))
    for row in rows:
        print(
            f"{row['drafter']:6} {row['kind']:10} temperature {row['temperature']:g}: acceptance "
            f"{row['acceptance']:.3f}, coverage {row['coverage']:.3f}, {row['positions']} positions"
        )


def questions(num: int, human_eval: Path | None) -> list[tuple[str, str]]:
    """Evenly from all there are of each kind: (kind, text)."""
    listed = json.loads((SMOLLM2 / "prompts.json").read_text())
    if human_eval:
        tasks = [json.loads(line)["prompt"] for line in human_eval.read_text().splitlines()]
        listed += [
            {"kind": "HumanEval", "prompt": f"Complete this function:\n\n```python\n{task}```"}
            for task in tasks
        ]
    by_kind: dict[str, list[str]] = defaultdict(list)
    for each in listed:
        by_kind[each["kind"]].append(each["prompt"])
    return [
        (kind, texts[index * len(texts) // num])
        for kind, texts in by_kind.items()
        for index in range(num)
    ]


def write(target: Path, prompts: Sequence[tuple[str, list[int]]], num: int) -> list[Answer]:
    """The target's answers at each temperature, up to their ends; all of them at once."""
    model = SlotModel(target, len(prompts), MAX_LEN, num_threads=1)
    ends = set(eos_token_ids(target, model.config.eos_token_id))
    for slot, (_, prompt) in enumerate(prompts):
        model.forward([Item(slot, 0, prompt[:-1], 0)])
    found = []
    for temperature in TEMPERATURES:
        answers = [
            Answer(
                kind,
                list(prompt),
                len(prompt),
                Sampling(max_tokens=num, temperature=temperature, seed=SEED + slot),
            )
            for slot, (kind, prompt) in enumerate(prompts)
        ]
        open_slots = dict(enumerate(answers))
        for _ in range(num):
            if not open_slots:
                break
            logits = model.forward(
                [Item(s, len(a.tokens) - 1, a.tokens[-1:], 1) for s, a in open_slots.items()]
            )
            rows = [
                Row(a.sampling, a.tokens, a.num_prompt, len(a.tokens)) for a in open_slots.values()
            ]
            chosen, _ = choose(logits, rows)
            for slot, token in zip(list(open_slots), chosen, strict=True):
                open_slots[slot].tokens.append(token)
                if token in ends:
                    del open_slots[slot]
        found += answers
    return found


def load(name: str, folder: Path, tokenizer: Tokenizer, num: int) -> Drafter:
    draft = SMOLLM2
    if name != TORCH:
        draft = folder / f"{name}.gguf"
        export(SMOLLM2, draft, name)  # type: ignore[arg-type]
    settings = {"max_sessions": num, "max_branches": 1, "max_model_len": MAX_LEN}
    return load_drafter(EdgeConfig(draft=draft, drafter=settings), tokenizer)


def judge(drafter: Drafter, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """A row for each kind and temperature."""
    counts: dict[tuple[str, float], list[int]] = defaultdict(lambda: [0, 0, 0])
    for temperature in TEMPERATURES:
        alike = [each for each in answers if each.sampling.temperature == temperature]
        for key in range(len(alike)):
            drafter.open(key)
        for offset in range(max(len(each.tokens) - each.num_prompt for each in alike)):
            jobs = [
                DraftJob(key, each.tokens[: each.num_prompt + offset], each.sampling)
                for key, each in enumerate(alike)
                if each.num_prompt + offset < len(each.tokens)
            ]
            for job, proposal in zip(jobs, drafter.step(jobs), strict=True):
                answer = alike[job.key]
                choice = answer.tokens[len(job.tokens)]
                count = counts[answer.kind, temperature]
                count[0] += 1
                count[1] += proposal.token == choice
                count[2] += any(other.token == choice for other in proposal.alternatives)
        for key in range(len(alike)):
            drafter.close(key)
    return [
        {
            "kind": kind,
            "temperature": temperature,
            "positions": positions,
            "acceptance": right / positions,
            "coverage": covered / max(1, positions - right),
        }
        for (kind, temperature), (positions, right, covered) in sorted(counts.items())
    ]


if __name__ == "__main__":
    main()
