"""What decides a prompt, and that a drafter's tokenizer can take it from the target's."""

from __future__ import annotations

import contextlib
import datetime
import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.models.sentencepiece import TEMPLATE, save_sentencepiece
from wisp.config import TINY
from wisp.errors import BadRequest, ConfigError, HandshakeError
from wisp.models.tokenizer import Tokenizer

CHAT = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(save_sentencepiece(tmp_path_factory.mktemp("target")))


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Of a base model: another template, other special tokens, nothing at the beginning."""
    folder = tmp_path_factory.mktemp("draft")
    other = "{{ bos_token }}{{ messages[0].content }}"
    return Tokenizer(save_sentencepiece(folder, template=other, bos="</s>", adds_bos=False))


def test_tokens_are_those_of_the_library(target: Tokenizer, tmp_path: Path) -> None:
    own = AutoTokenizer.from_pretrained(str(save_sentencepiece(tmp_path)))
    assert target.encode("the cat é日") == own.encode("the cat é日")
    rendered = own.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert target.encode_chat(CHAT) == own.encode(rendered, add_special_tokens=False)
    bundled = AutoTokenizer.from_pretrained(str(TINY / "target"))
    assert Tokenizer(TINY / "target").encode("def é") == bundled.encode("def é")


def test_a_drafters_tokenizer_takes_the_targets_rules(target: Tokenizer, draft: Tokenizer) -> None:
    assert draft.vocabulary == target.vocabulary
    assert draft.fingerprint != target.fingerprint
    assert draft.encode("the cat") != target.encode("the cat")
    assert draft.encode_chat(CHAT) != target.encode_chat(CHAT)
    taught = draft.with_rules(target.rules)
    assert taught.fingerprint == target.fingerprint
    assert taught.encode("the cat") == target.encode("the cat")
    assert taught.encode_chat(CHAT) == target.encode_chat(CHAT)
    tokens = [1, 5, 2, *target.encode("the cat")]
    assert taught.decode(tokens) == target.decode(tokens)
    assert taught.bytes.written(1) == target.bytes.written(1) == b"<s>"


def test_a_tokenizer_that_splits_in_another_way_is_refused(target: Tokenizer) -> None:
    with pytest.raises(HandshakeError, match="splits words in another way"):
        Tokenizer(TINY / "target").with_rules(target.rules)


def test_code_that_comes_with_a_tokenizer_is_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library asked whoever sat at the terminal, and took a yes."""
    ran = tmp_path / "ran"
    directory = save_sentencepiece(tmp_path / "model")
    (directory / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {
        "tokenizer_class": "Evil",
        "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    }
    path.write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with contextlib.suppress(ConfigError):
        Tokenizer(directory)
    assert not ran.exists()


def test_the_same_directory_has_the_same_fingerprint(tmp_path: Path, target: Tokenizer) -> None:
    again = Tokenizer(save_sentencepiece(tmp_path / "again"))
    assert (again.fingerprint, again.vocabulary) == (target.fingerprint, target.vocabulary)
    changed = Tokenizer(save_sentencepiece(tmp_path / "changed", template=TEMPLATE + "\n"))
    assert changed.fingerprint != target.fingerprint


@pytest.mark.parametrize(
    "name",
    [
        "messages",
        "conversations",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "strftime_now",
        "bos_token",
    ],
)
def test_a_variable_that_is_not_the_clients_is_refused(target: Tokenizer, name: str) -> None:
    with pytest.raises(BadRequest, match=f"'{name}' cannot be set") as caught:
        target.encode_chat(CHAT, {name: 1})
    assert caught.value.param == "chat_template_kwargs"


def test_todays_date_is_the_same_in_all_time_zones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{{ strftime_now('%Y-%m-%d') }}"
    tokenizer = Tokenizer(save_sentencepiece(tmp_path, template=template))
    before = datetime.datetime.now(datetime.UTC).date()
    text = tokenizer.decode(tokenizer.encode_chat(CHAT))
    assert before <= datetime.date.fromisoformat(text) <= datetime.datetime.now(datetime.UTC).date()
