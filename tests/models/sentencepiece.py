"""A tokenizer of SentencePiece's kind: words begin with a mark, what has no token goes by bytes."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["the", "cat", "sat", "on", "mat", "def", "return", "é"]
MARK = "\N{LOWER ONE EIGHTH BLOCK}"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}"
    "{{ eos_token }}{% endfor %}[assistant]"
)


def save_sentencepiece(
    directory: Path, *, template: str | None = TEMPLATE, bos: str = "<s>", adds_bos: bool = True
) -> Path:
    """As Llama 2 has it; `bos` and `adds_bos` are what differs between a base model and a chat."""
    vocabulary: dict[str, int] = {}
    merges: list[tuple[str, str]] = []

    def know(*tokens: str) -> None:
        for token in tokens:
            vocabulary.setdefault(token, len(vocabulary))

    know("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), MARK)
    know(*(chr(code) for code in range(0x21, 0x7F)), "\n", *"".join(WORDS))
    for word in WORDS:
        for end in range(1, len(word) + 1):
            know(MARK + word[:end])
            merge = (MARK + word[: end - 1], word[end - 1])
            if merge not in merges:
                merges.append(merge)
    raw = RawTokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    raw.normalizer = normalizers.Sequence(
        [normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]
    )
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace(MARK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    if adds_bos:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=bos, eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = template
    fast.save_pretrained(str(directory))
    return directory
