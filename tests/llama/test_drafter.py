"""llama.cpp drafts for real, of GGUF files made here of small models."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wisp.config import TINY, EdgeConfig
from wisp.core.request import Sampling
from wisp.edge.drafter.base import DraftJob
from wisp.edge.drafter.llama import LlamaDrafter
from wisp.edge.drafter.load import load_drafter, load_tokenizer
from wisp.edge.drafter.transformers import TransformersDrafter
from wisp.errors import ConfigError, Overloaded
from wisp.models.draft_vocabulary import FILE, Vocabulary
from wisp.models.public.export import export
from wisp.models.tokenizer import Tokenizer

DRAFT = TINY / "draft"
CODE = "import os\n\n\ndef main(arguments):\n    for name in os.listdir('.'):\n        "


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    export(DRAFT, file, "F32")
    return file


@pytest.fixture
def drafter(gguf: Path) -> Iterator[LlamaDrafter]:
    drafter = LlamaDrafter(gguf, max_sessions=4, max_model_len=512, num_threads=1)
    yield drafter
    drafter.shutdown()


@pytest.fixture(scope="module")
def torch_drafter() -> TransformersDrafter:
    return TransformersDrafter(DRAFT, max_sessions=4, max_model_len=512, num_threads=1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(DRAFT)


def test_it_drafts_what_torch_drafts_whatever_was_drafted_before(
    drafter: LlamaDrafter, torch_drafter: TransformersDrafter, tokenizer: Tokenizer
) -> None:
    rng = random.Random(0)
    size = len(tokenizer)
    texts = {key: tokenizer.encode(CODE * (key + 1)) for key in range(3)}
    for key in texts:
        drafter.open(key)
        torch_drafter.open(key)
    noisy = Sampling(max_tokens=1, temperature=0.8, seed=7)
    same = asked = 0
    for _ in range(40):
        for tokens in texts.values():
            if rng.random() < 0.3:  # a rejection: back to somewhere, and on with another token
                del tokens[rng.randint(len(tokens) // 2, len(tokens)) :]
                tokens.append(rng.randrange(size))
        keys = rng.sample(sorted(texts), rng.randint(1, 3))
        jobs = [DraftJob(key, texts[key], noisy if key == 1 else None) for key in keys]
        for key, mine, other in zip(
            keys, drafter.step(jobs), torch_drafter.step(jobs), strict=True
        ):
            asked += 1
            same += mine.token == other.token
            assert mine.confidence == pytest.approx(other.confidence, abs=0.02)
            texts[key].append(other.token)
    for key in texts:
        torch_drafter.close(key)
    # Its cache holds half precision, so that near-ties may fall the other way.
    assert same >= asked - 2


def test_a_fork_shares_what_its_generation_holds(
    gguf: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = LlamaDrafter(gguf, max_sessions=1, max_branches=2, max_model_len=256, num_threads=1)
    counts: list[int] = []
    # What is computed shows nowhere but in the drafter's own calls.
    compute = drafter._compute

    def counted(rows: Any) -> Any:
        counts.append(len(rows))
        return compute(rows)

    monkeypatch.setattr(drafter, "_compute", counted)
    tokens = tokenizer.encode(CODE)
    drafter.open(1)
    (first,) = drafter.step([DraftJob(1, tokens)])
    fork = [*tokens, first.alternatives[0].token]
    _, forked = drafter.step([DraftJob(1, [*tokens, first.token]), DraftJob(1, fork)])
    assert counts == [len(tokens), 2]
    alone = LlamaDrafter(gguf, max_sessions=1, max_model_len=256, num_threads=1)
    alone.open(1)
    (again,) = alone.step([DraftJob(1, fork)])
    assert again.token == forked.token
    assert again.confidence == pytest.approx(forked.confidence, abs=0.02)
    drafter.shutdown()
    alone.shutdown()


def test_long_prompts_come_in_several_calls(
    gguf: Path, torch_drafter: TransformersDrafter, tokenizer: Tokenizer
) -> None:
    drafter = LlamaDrafter(gguf, max_sessions=2, max_model_len=1200, num_threads=1)
    tokens = (tokenizer.encode(CODE) * 60)[:1100]
    drafter.open(1)
    drafter.open(2)
    first, second = drafter.step([DraftJob(1, tokens), DraftJob(2, tokens[:300])])
    torch_drafter.open(9)
    (expected,) = torch_drafter.step([DraftJob(9, tokens[:300])])
    torch_drafter.close(9)
    assert second.confidence == pytest.approx(expected.confidence, abs=0.02)
    assert first.token != -1
    drafter.shutdown()


def test_sequences_are_bounded(drafter: LlamaDrafter) -> None:
    for key in range(4):
        drafter.open(key)
    with pytest.raises(Overloaded, match="all 4 sequences"):
        drafter.open(4)
    with pytest.raises(ValueError, match="holds 512 tokens"):
        drafter.step([DraftJob(0, [5] * 513)])
    for key in range(4):  # all of them full at once: there is a cell for every token
        drafter.step([DraftJob(key, [5 + key] * 512)])
    drafter.close(0)
    drafter.open(4)
    assert len(drafter.step([DraftJob(4, [5, 6, 7])])) == 1


def test_what_llama_refuses_leaves_the_others_whole(
    drafter: LlamaDrafter, tokenizer: Tokenizer
) -> None:
    tokens = tokenizer.encode(CODE)
    drafter.open(1)
    drafter.open(2)
    (before,) = drafter.step([DraftJob(1, tokens)])
    with pytest.raises(RuntimeError, match="cannot compute"):
        drafter.step([DraftJob(2, [1 << 30])])
    (after,) = drafter.step([DraftJob(1, tokens)])
    assert after.token == before.token
    drafter.step([DraftJob(2, tokens)])


def test_quantized_files_are_smaller_and_nearly_as_good(
    tmp_path: Path, torch_drafter: TransformersDrafter, tokenizer: Tokenizer
) -> None:
    tokens = tokenizer.encode(CODE * 3)
    torch_drafter.open(1)
    sizes = []
    for kind in ("F32", "Q8_0", "Q4_0"):
        export(DRAFT, tmp_path / f"{kind}.gguf", kind)
        sizes.append((tmp_path / f"{kind}.gguf").stat().st_size)
        drafter = LlamaDrafter(tmp_path / f"{kind}.gguf", max_sessions=1, num_threads=1)
        drafter.open(1)
        same = 0
        for length in range(20, len(tokens)):
            job = [DraftJob(1, tokens[:length])]
            same += drafter.step(job)[0].token == torch_drafter.step(job)[0].token
        # Measured: 1.00, 0.97 and 0.7 to 0.8 of a random walk's tokens.
        assert same / (len(tokens) - 20) > {"F32": 0.99, "Q8_0": 0.9, "Q4_0": 0.5}[kind]
        drafter.shutdown()
    torch_drafter.close(1)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.3 * sizes[0]


def test_it_knows_some_of_the_targets_tokens(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A drafter for frequent tokens alone: in both engines its proposals are the target's ids."""
    import torch
    from transformers import Qwen3ForCausalLM

    kept = list(range(3)) + list(range(10, 4096, 2))
    model = Qwen3ForCausalLM.from_pretrained(DRAFT, dtype=torch.float32)
    model.resize_token_embeddings(len(kept))
    whole = Qwen3ForCausalLM.from_pretrained(DRAFT, dtype=torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(whole.model.embed_tokens.weight[kept])
    folder = tmp_path / "some"
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DRAFT / name).read_bytes())
    (folder / FILE).write_text(json.dumps(kept))
    export(folder, tmp_path / "some" / "some.gguf", "F32")

    exact = {"dtype": "float32"}
    plain = load_drafter(EdgeConfig(draft=folder, drafter=exact), tokenizer)
    llama = load_drafter(EdgeConfig(draft=folder / "some.gguf"), tokenizer)
    assert isinstance(llama, LlamaDrafter)
    assert llama.vocabulary.ids is not None
    assert llama.vocabulary.ids.tolist() == kept
    tokens = tokenizer.encode(CODE)  # odd ids among them, which neither knows
    plain.open(1)
    llama.open(1)
    for _ in range(12):
        for sampling in (None, Sampling(max_tokens=1, temperature=1.0, seed=3)):
            job = [DraftJob(1, tokens, sampling)]
            (mine,), (other,) = llama.step(job), plain.step(job)
            assert mine.token in kept
            assert mine.token == other.token
        tokens.append(mine.token)


def test_another_tokenizer_is_told_apart(gguf: Path, tmp_path: Path) -> None:
    content = json.loads((DRAFT / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    token = next(token for token, number in vocab.items() if number == 4000)
    vocab["completely-other"] = vocab.pop(token)
    content["model"]["merges"] = [
        pair for pair in content["model"]["merges"] if "".join(pair) != token and token not in pair
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    config = (DRAFT / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(ConfigError, match=r"1 of its 4096 tokens are not the target's.*id 4000"):
        load_drafter(EdgeConfig(draft=gguf), Tokenizer(tmp_path))


def test_where_the_tokenizer_comes_from(gguf: Path, tmp_path: Path) -> None:
    mine = load_tokenizer(EdgeConfig(draft=gguf, tokenizer=DRAFT))
    assert mine.fingerprint == Tokenizer(DRAFT).fingerprint
    with pytest.raises(ConfigError, match="set `tokenizer` to a Hugging Face directory"):
        load_tokenizer(EdgeConfig(draft=gguf))  # this file has no chat template
    with pytest.raises(ConfigError, match="there is no file"):
        load_tokenizer(EdgeConfig(draft=tmp_path / "nowhere.gguf"))


def test_what_is_no_gguf_file_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no such thing")
    with pytest.raises(ConfigError, match=r"llama\.cpp cannot load"):
        LlamaDrafter(tmp_path / "x.gguf", max_sessions=1)


def test_the_timing_chooses_threads(gguf: Path) -> None:
    drafter = LlamaDrafter(gguf, max_sessions=2, max_model_len=64)
    assert drafter.num_threads >= 1
    assert drafter.time_step(1, batch=2) > 0
    drafter.open(1)  # the timing has left nothing behind
    assert np.isfinite(drafter.step([DraftJob(1, [5, 6])])[0].confidence)
    drafter.shutdown()


def test_a_vocabulary_translates() -> None:
    some = Vocabulary([5, 7, 9])
    assert some.own([7, 9, 8]) == [1, 2, 0]
    assert Vocabulary().own([7, 8]) == [7, 8]


def test_conversations_that_take_turns_are_not_computed_again(
    gguf: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than it has room for at once, and their drafts are the same."""
    drafters = [
        LlamaDrafter(
            gguf, max_sessions=1, max_model_len=512, num_threads=1, host_kv_bytes=num_bytes
        )
        for num_bytes in (0, 1 << 26)
    ]
    computed = [0, 0]
    for index, drafter in enumerate(drafters):
        compute = drafter._compute  # what is computed shows nowhere else

        def counted(rows: Any, index: int = index, compute: Any = compute) -> Any:
            computed[index] += len(rows)
            return compute(rows)

        monkeypatch.setattr(drafter, "_compute", counted)  # see above
    texts = {key: tokenizer.encode(CODE * (key + 3)) for key in range(3)}
    for _ in range(3):
        for key, tokens in texts.items():
            for drafter in drafters:
                drafter.open(key)
            for _ in range(4):
                plain, parked = [d.step([DraftJob(key, tokens)])[0] for d in drafters]
                assert parked.token == plain.token
                assert parked.confidence == pytest.approx(plain.confidence, abs=0.02)
                tokens.append(plain.token)
            for drafter in drafters:
                drafter.close(key)
    num_new = sum(len(tokens) for tokens in texts.values()) + 3 * 3
    assert 0 < drafters[1].parked.num_bytes <= 1 << 26
    assert computed[1] <= num_new < computed[0] / 2
    for drafter in drafters:
        drafter.shutdown()
