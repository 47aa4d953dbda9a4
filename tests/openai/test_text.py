"""The text of an answer does not depend on how it arrived."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wisp.core.drafts import REST, TokenLogprob, Verdict
from wisp.core.request import FinishReason, Sampling
from wisp.models.detokenizer import Detokenizer
from wisp.models.tokenizer import Tokenizer
from wisp.openai.text import Answer, Delta, StopStrings

many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
letters = st.text("abc", max_size=30)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


def cut(text: str, stops: Sequence[str]) -> str:
    """The reference: stop with the first character that completes a stop string."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


def verdicts(
    tokens: Sequence[int], sizes: Sequence[int], reason: FinishReason, *, logprobs: bool = False
) -> list[Verdict]:
    """The tokens in steps of these sizes, then one by one; all but a step's last are drafts."""
    made: list[Verdict] = []
    start = 0
    while start < len(tokens):
        size = sizes[len(made)] if len(made) < len(sizes) else 1
        part = list(tokens[start : start + size])
        start += len(part)
        values = [TokenLogprob(logprob=-float(token)) for token in part]
        made.append(
            Verdict(
                position=start - len(part),
                tokens=part,
                num_drafted=len(part),
                num_accepted=len(part) - 1,
                directive=REST,
                finish_reason=reason if start == len(tokens) else None,
                logprobs=values if logprobs else None,
            )
        )
    return made


def run(answer: Answer, steps: Sequence[Verdict]) -> list[Delta]:
    deltas: list[Delta] = []
    for verdict in steps:
        delta = answer.add(verdict)
        if delta is not None:
            deltas.append(delta)
            if delta.finish_reason is not None:
                break
    return deltas


def sampling(num_logprobs: int | None = None, min_tokens: int = 0) -> Sampling:
    return Sampling(max_tokens=1000, seed=1, num_logprobs=num_logprobs, min_tokens=min_tokens)


@many
@given(st.lists(st.text("abc", max_size=5), max_size=10), stop_lists)
def test_stop_strings_cut_the_same_however_the_text_is_split(
    pieces: list[str], stops: list[str]
) -> None:
    matcher = StopStrings(stops)
    given = [matcher.add(piece) for piece in pieces] + [matcher.flush()]
    assert "".join(given) == cut("".join(pieces), stops)


@many
@given(st.text("abc"), stop_lists)
def test_no_part_of_a_stop_string_is_given_out_before_it_is_ruled_out(
    text: str, stops: list[str]
) -> None:
    matcher = StopStrings(stops)
    whole = cut(text, stops)
    given = ""
    for char in text:
        given += matcher.add(char)
        assert whole.startswith(given)


@many
@given(st.data())
def test_detokenized_pieces_are_the_whole(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = st.integers(0, len(tokenizer) - 1)
    groups = data.draw(st.lists(st.lists(ids, max_size=4), max_size=12))
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.add(group) for group in groups]
    whole = tokenizer.decode([token for group in groups for token in group])
    assert "".join(pieces) + detokenizer.flush() == whole


@many
@given(st.text(max_size=20))
def test_no_half_character_is_given_out(tokenizer: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(tokenizer)
    given = ""
    for token in tokenizer.encode(text):
        given += detokenizer.add([token])
        assert text.startswith(given)
    assert given + detokenizer.flush() == text


def test_text_before_a_half_character_does_not_wait_for_it(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("the cat 😀")
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.add(tokens[:-1]) == "the cat "
    assert detokenizer.add(tokens[-1:]) == "😀"


@many
@given(
    text=letters,
    stops=stop_lists,
    sizes=st.lists(st.integers(1, 5), max_size=8),
    num_logprobs=st.sampled_from([None, 0]),
)
def test_the_answer_does_not_depend_on_the_steps(
    tokenizer: Tokenizer, text: str, stops: list[str], sizes: list[int], num_logprobs: int | None
) -> None:
    tokens = [*tokenizer.encode(text), 0]
    steps = verdicts(tokens, sizes, FinishReason.STOP, logprobs=num_logprobs is not None)
    answer = Answer(tokenizer, sampling(num_logprobs), stops)
    deltas = run(answer, steps)
    whole = "".join(delta.text for delta in deltas)
    assert whole == cut(text, stops)
    assert deltas[-1].finish_reason is FinishReason.STOP
    for delta in deltas:
        assert "".join(part for part, _ in delta.segments) == delta.text
    assert sum(delta.num_tokens for delta in deltas) == answer.counts.num_tokens

    single = Answer(tokenizer, sampling(), stops)
    run(single, verdicts(tokens, [], FinishReason.STOP))
    assert single.counts.num_tokens == answer.counts.num_tokens
    if num_logprobs is not None:
        entries = [entry for delta in deltas for entry in delta.logprobs]
        assert "".join(tokenizer.decode([entry.token]) for entry in entries).startswith(whole)


def test_a_stop_string_ends_the_count_with_the_token_that_completes_it(
    tokenizer: Tokenizer,
) -> None:
    tokens = tokenizer.encode("xyzw")
    assert len(tokens) == 4
    answer = Answer(tokenizer, sampling(), ["yz"])
    (delta,) = run(answer, verdicts(tokens, [4], FinishReason.LENGTH))
    assert (delta.text, delta.finish_reason) == ("x", FinishReason.STOP)
    assert (delta.num_tokens, delta.num_accepted) == (3, 3)


def test_a_beginning_of_a_stop_string_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    answer = Answer(tokenizer, sampling(), ["yzw"])
    deltas = run(answer, verdicts(tokenizer.encode("xyz"), [], FinishReason.LENGTH))
    assert [delta.text for delta in deltas] == ["x", "yz"]
    assert deltas[-1].finish_reason is FinishReason.LENGTH


def test_stop_strings_do_not_count_before_min_tokens(tokenizer: Tokenizer) -> None:
    answer = Answer(tokenizer, sampling(min_tokens=2), ["x"])
    deltas = run(answer, verdicts(tokenizer.encode("xyzx"), [], FinishReason.LENGTH))
    assert "".join(delta.text for delta in deltas) == "xyz"


@many
@given(
    text=letters,
    stops=stop_lists,
    min_tokens=st.integers(0, 12),
    sizes=st.lists(st.integers(1, 5), max_size=8),
)
def test_a_stop_string_counts_if_it_ends_behind_min_tokens(
    tokenizer: Tokenizer, text: str, stops: list[str], min_tokens: int, sizes: list[int]
) -> None:
    """Wherever it begins, as in vLLM."""
    tokens = [*tokenizer.encode(text), 0]
    early = tokenizer.decode(tokens[:min_tokens])
    ends = [
        (end, -len(stop))
        for end in range(len(early) + 1, len(text) + 1)
        for stop in stops
        if text[:end].endswith(stop)
    ]
    whole = text[: sum(min(ends))] if ends else text
    answer = Answer(tokenizer, sampling(min_tokens=min_tokens), stops)
    deltas = run(answer, verdicts(tokens, sizes, FinishReason.STOP))
    assert "".join(delta.text for delta in deltas) == whole


def test_the_end_token_counts_but_has_no_text(tokenizer: Tokenizer) -> None:
    last = tokenizer.encode("y")
    answer = Answer(tokenizer, sampling(), [])
    (delta,) = run(answer, verdicts([*tokenizer.encode("x"), *last], [2], FinishReason.STOP))
    assert delta.text == "x"
    assert delta.num_tokens == 2


def test_an_unfinished_character_is_given_out_at_the_end(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("x😀")[:-1]
    answer = Answer(tokenizer, sampling(), [])
    deltas = run(answer, verdicts(tokens, [], FinishReason.LENGTH))
    assert "".join(delta.text for delta in deltas) == tokenizer.decode(tokens) == "x\ufffd"


def test_token_bytes_are_exact(tokenizer: Tokenizer) -> None:
    text = "the cat 😀é"
    assert b"".join(map(tokenizer.bytes.written, tokenizer.encode(text))) == text.encode()
    assert tokenizer.bytes.written(0) == b"<|im_end|>"
    assert tokenizer.bytes.written(len(tokenizer) + 5) == b""
