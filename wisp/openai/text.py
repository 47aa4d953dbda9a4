"""From verdicts to the text of an answer: detokenized, cut at stop strings, and counted. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from wisp.core.drafts import DraftCounts, Rejection, Source, TokenLogprob, Verdict
from wisp.core.request import FinishReason, Sampling
from wisp.models.detokenizer import Detokenizer
from wisp.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Entry:
    """A token with its log-probability, and where its text begins in the answer."""

    token: int
    offset: int
    logprob: TokenLogprob | None  # None: the first one of a prompt, which nothing stands before


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of the answer. Only the last one has a finish_reason; its text may be empty."""

    text: str
    segments: list[tuple[str, bool]]  # the text in parts; true: from accepted drafts of an edge
    num_tokens: int
    num_accepted: int  # of these tokens, accepted drafts of an edge
    logprobs: list[Entry]
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class Counts:
    """Of a whole answer. The end token counts; tokens behind a stop string do not."""

    num_steps: int = 0
    num_tokens: int = 0
    drafts: dict[Source, DraftCounts] = field(
        default_factory=lambda: dict.fromkeys(Source, DraftCounts())
    )
    # Of the drafts of its edge, by what became of them.
    rejections: dict[Rejection, int] = field(default_factory=lambda: dict.fromkeys(Rejection, 0))
    step_time_s: float = 0.0  # of all its steps
    alone_time_s: float = 0.0  # if their mean seat had had them for itself


class StopStrings:
    """Cuts a text at the stop string that is complete first, however the text is split.

    Of two that become complete with the same character the longer one counts. Text that may be the
    beginning of a stop string is held back until the next characters tell.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def add(self, text: str, *, too_early: bool = False) -> str:
        """What is safe to give out now. Nothing comes behind a match.

        A stop string that is complete `too_early` does not count. One that only begins there does.
        """
        if self.matched is not None:
            return ""
        num_held = len(self._held)
        text = self._held + text
        found = [
            (text.find(stop, max(0, num_held - len(stop) + 1)) + len(stop), -len(stop), stop)
            for stop in self._stops
        ]
        complete = [match for match in found if match[0] + match[1] >= 0]
        if complete and not too_early:
            end, _, self.matched = min(complete)
            self._held = ""
            return text[: end - len(self.matched)]
        cut = len(text) - self._num_held(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """The text is over: what was held back is no stop string after all."""
        held, self._held = self._held, ""
        return held

    def _num_held(self, text: str) -> int:
        longest = max((len(stop) for stop in self._stops), default=0)
        for num in range(min(longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-num:]) for stop in self._stops):
                return num
        return 0


@dataclass(frozen=True, slots=True)
class _Group:
    tokens: list[int]
    is_draft: bool
    logprob: TokenLogprob | None = None
    is_end: bool = False  # the end token, which has no text


@dataclass(slots=True)
class _Pending:
    """What has been read from verdicts but not yet given out."""

    segments: deque[tuple[str, bool]] = field(default_factory=deque)
    logprobs: deque[Entry] = field(default_factory=deque)
    num_tokens: int = 0
    num_accepted: int = 0


class Answer:
    """The text of one generation as its verdicts come."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        sampling: Sampling,
        stops: Sequence[str],
        prompt: Sequence[int] = (),
        offset: int = 0,
    ) -> None:
        self.counts = Counts()
        self._offset = offset  # characters before the answer, that entries count as well
        self._detokenizer = Detokenizer(tokenizer, prompt)
        self._stops = StopStrings(stops)
        self._min_tokens = sampling.min_tokens
        # The token that completes a stop string must be known; otherwise a group is faster.
        self._token_by_token = bool(stops) or sampling.num_logprobs is not None
        self._pending = _Pending()
        self._num_detokenized = 0  # characters
        self._num_given = 0

    def add(self, verdict: Verdict) -> Delta | None:
        """The next piece, or None while nothing can be shown yet."""
        self.counts.num_steps += 1
        self.counts.step_time_s += verdict.step_time_s
        self.counts.alone_time_s += verdict.alone_time_s
        drafts = DraftCounts(verdict.num_drafted, verdict.num_accepted)
        self.counts.drafts[verdict.source] += drafts
        if verdict.rejection:
            self.counts.rejections[verdict.rejection] += 1
        text = ""
        for group in self._groups(verdict):
            text += self._take(group)
            if self._stops.matched is not None:
                return self._delta(text, FinishReason.STOP)
        if verdict.finish_reason is None:
            return self._delta(text) if text else None
        text += self._finish()
        stopped = self._stops.matched is not None
        return self._delta(text, FinishReason.STOP if stopped else verdict.finish_reason)

    def _groups(self, verdict: Verdict) -> Iterator[_Group]:
        accepted, num_text = verdict.edge_drafts.num_accepted, len(verdict.tokens)
        if verdict.finish_reason is FinishReason.STOP:
            num_text -= 1
        tokens, end = verdict.tokens[:num_text], verdict.tokens[num_text:]
        if self._token_by_token:
            logprobs: Sequence[TokenLogprob | None] = verdict.logprobs or [None] * len(tokens)
            for index, token in enumerate(tokens):
                yield _Group([token], index < accepted, logprobs[index])
        else:
            yield _Group(tokens[:accepted], True)
            yield _Group(tokens[accepted:], False)
        if end:
            yield _Group(end, num_text < accepted, is_end=True)

    def _take(self, group: _Group) -> str:
        """The text that this group makes safe to give out."""
        if not group.tokens:
            return ""
        self._count(group)
        if group.is_end:
            return ""
        if group.logprob is not None:
            offset = self._offset + self._num_detokenized
            entry = Entry(group.tokens[0], offset, group.logprob)
            self._pending.logprobs.append(entry)
        text = self._detokenizer.add(group.tokens)
        self._note(text, group.is_draft)
        return self._until_stop(text)

    def _until_stop(self, text: str) -> str:
        return self._stops.add(text, too_early=self.counts.num_tokens <= self._min_tokens)

    def _count(self, group: _Group) -> None:
        self.counts.num_tokens += len(group.tokens)
        self._pending.num_tokens += len(group.tokens)
        self._pending.num_accepted += len(group.tokens) if group.is_draft else 0

    def _note(self, text: str, is_draft: bool) -> None:
        self._num_detokenized += len(text)
        if text:
            self._pending.segments.append((text, is_draft))

    def _finish(self) -> str:
        rest = self._detokenizer.flush()
        self._note(rest, False)
        return self._until_stop(rest) + self._stops.flush()

    def _delta(self, text: str, finish_reason: FinishReason | None = None) -> Delta:
        pending = self._pending
        self._num_given += len(text)
        delta = Delta(
            text=text,
            segments=self._take_segments(len(text)),
            num_tokens=pending.num_tokens,
            num_accepted=pending.num_accepted,
            logprobs=self._take_logprobs(finish_reason),
            finish_reason=finish_reason,
        )
        pending.num_tokens = pending.num_accepted = 0
        return delta

    def _take_segments(self, num_chars: int) -> list[tuple[str, bool]]:
        taken: list[tuple[str, bool]] = []
        waiting = self._pending.segments
        while num_chars:
            text, is_draft = waiting.popleft()
            part, rest = text[:num_chars], text[num_chars:]
            num_chars -= len(part)
            if taken and taken[-1][1] == is_draft:
                part = taken.pop()[0] + part
            taken.append((part, is_draft))
            if rest:
                waiting.appendleft((rest, is_draft))
        return taken

    def _take_logprobs(self, finish_reason: FinishReason | None) -> list[Entry]:
        """Those of the text given out. At a natural end all the others come as well."""
        waiting = self._pending.logprobs
        cut = self._stops.matched is not None
        if finish_reason is not None and not cut:
            return list(waiting)
        taken = []
        while waiting and waiting[0].offset < self._offset + self._num_given:
            taken.append(waiting.popleft())
        return taken
