"""The text of an answer is a function of its tokens: equal to one decode of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.models.sentencepiece import MARK, save_sentencepiece
from wisp.config import TINY
from wisp.models.detokenizer import Detokenizer
from wisp.models.tokenizer import Tokenizer

many = settings(max_examples=300, deadline=None)


def save_words(directory: Path, decoder: decoders.Decoder | None) -> Path:
    words = ["[UNK]", "hello", "##s", ".", ",", "n", "'", "t", MARK, f"{MARK}a", "a</w>", "b", "é"]
    raw = RawTokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.decoder = decoder
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")
    fast.save_pretrained(str(directory))
    return directory


@pytest.fixture(
    scope="module",
    params=["byte-level", "byte-fallback", "gemma", "metaspace", "wordpiece", "bpe", "none"],
)
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    match request.param:
        case "byte-level":
            return Tokenizer(TINY / "target")
        case "byte-fallback":
            return Tokenizer(save_sentencepiece(folder))
        case "gemma":
            parts = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
            return Tokenizer(save_words(folder, decoders.Sequence(parts)))
        case "metaspace":
            return Tokenizer(save_words(folder, decoders.Metaspace()))
        case "wordpiece":
            return Tokenizer(save_words(folder, decoders.WordPiece()))
        case "bpe":
            return Tokenizer(save_words(folder, decoders.BPEDecoder()))
    return Tokenizer(save_words(folder, None))


def detokenized(tokenizer: Tokenizer, prompt: Sequence[int], groups: list[list[int]]) -> str:
    detokenizer = Detokenizer(tokenizer, prompt)
    return "".join([detokenizer.add(group) for group in groups]) + detokenizer.flush()


@many
@given(st.data())
def test_the_text_does_not_depend_on_the_groups(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = st.integers(0, len(tokenizer) + 3)
    prompt = data.draw(st.lists(ids, max_size=6))
    groups = data.draw(st.lists(st.lists(ids, max_size=4), max_size=12))
    tokens = [token for group in groups for token in group]
    assert detokenized(tokenizer, prompt, groups) == detokenized(tokenizer, prompt, [tokens])


@many
@given(st.data())
def test_it_is_one_decode_of_all(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Where the decoder makes whole characters of all bytes; else one of the two must lose some."""
    ids = st.integers(0, len(tokenizer) + 3)
    prompt, tokens = data.draw(st.lists(ids, max_size=6)), data.draw(st.lists(ids, max_size=12))
    before, whole = tokenizer.decode(prompt), tokenizer.decode(prompt + tokens)
    if "\ufffd" in whole or not whole.startswith(before):
        return
    assert detokenized(tokenizer, prompt, [[token] for token in tokens]) == whole[len(before) :]


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(save_sentencepiece(tmp_path_factory.mktemp("fallback")))


@many
@given(text=st.text(max_size=12), before=st.text(max_size=6), size=st.integers(1, 5))
@example(text=" the cat", before="def", size=1)
@example(text="日本", before="日", size=2)
def test_texts_come_back(fallback: Tokenizer, text: str, before: str, size: int) -> None:
    prompt, whole = fallback.encode(before), fallback.encode(before + text)
    if whole[: len(prompt)] != prompt:
        return  # the text has changed how its beginning is split
    tokens = whole[len(prompt) :]
    groups = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    assert detokenized(fallback, prompt, groups) == text


def test_a_cut_in_mid_character_keeps_the_characters_before_it(fallback: Tokenizer) -> None:
    tokens = fallback.encode("日本")[2:]  # without <s> and the mark
    assert len(tokens) == 6
    assert detokenized(fallback, [1], [tokens[:5]]) == "日\ufffd\ufffd"
    assert detokenized(fallback, [1], [tokens[:3]]) == "日"


def test_the_space_of_a_first_token_stays(fallback: Tokenizer) -> None:
    the = fallback.encode("the")
    cat = fallback.encode("cat")[1:]
    assert detokenized(fallback, the, [cat]) == " cat"
    assert detokenized(fallback, [1], [cat]) == "cat"  # nothing stands before it


def test_a_character_may_begin_in_the_prompt(fallback: Tokenizer) -> None:
    tokens = fallback.encode("日")
    assert detokenized(fallback, tokens[:-1], [tokens[-1:]]) == "日"
    assert detokenized(fallback, tokens[:-1], []) == ""


def test_bytes_that_are_no_character_are_as_in_one_decode(fallback: Tokenizer) -> None:
    ids = [3 + byte for byte in (0xE6, 0x97, 0xFF)]
    tokens = [*fallback.encode("the"), *ids, *fallback.encode("cat")[1:]]
    whole = fallback.decode(tokens)
    assert whole == "the\ufffd\ufffd\ufffd cat"
    assert detokenized(fallback, [1], [[token] for token in tokens[1:]]) == whole
