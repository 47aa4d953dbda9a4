"""A generation: its committed tokens, its drafts, and how far the target is with it.

Nothing here does I/O or reads a clock: times are arguments, in seconds of a monotonic clock. Only
the methods of a session change it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from wisp.core.draft_stream import DraftStream
from wisp.core.drafts import REST, Alternative, Directive, DraftBlock, Drafts, Source
from wisp.core.edge_stats import EdgeStats
from wisp.core.ngram import NgramDrafts
from wisp.core.own_drafts import COMING, OwnDrafts, Proposed
from wisp.core.request import FinishReason, Sampling
from wisp.core.slo import Slo
from wisp.core.table import row_of

# Times the promised rate that a session is served at, where time allows. Chosen: who aims at just
# that rate is late as often as not, and three percent are little taken from the others.
_AIM = 1.03

# The longest that deadlines may lie ahead of a session's last token. Chosen: as much text as a
# burst of drafts brings; who has more than that is not starved for the time it lasts.
_MAX_AHEAD_S = 3.0


class Session:
    """One generation. Drafts of several sources may wait for it; the target alone decides."""

    # A thousand are looked at for each step: this is a fraction of the memory of dictionaries.
    __slots__ = (
        "_alternatives",
        "_is_astray",
        "_num_resumed",
        "_sources",
        "adapter",
        "aimed_s",
        "also",
        "committed_s",
        "directive",
        "drafts",
        "due_s",
        "edge_late",
        "edge_stats",
        "end",
        "finish_reason",
        "has_edge",
        "id",
        "num_computed",
        "num_computing",
        "num_in_flight",
        "num_own",
        "num_pending",
        "num_prompt",
        "overlaps",
        "own_drafts",
        "owner",
        "parked",
        "promised_s",
        "row",
        "said",
        "sampling",
        "slo",
        "stream",
        "tokens",
    )

    def __init__(
        self,
        session_id: int,
        prompt: Sequence[int],
        sampling: Sampling,
        slo: Slo,
        *,
        directive: Directive = REST,
        committed: Sequence[int] = (),
        adapter: str | None = None,
        has_edge: bool = False,
        owner: str = "",
        overlaps: bool = False,
        max_window: int = 64,
        max_forks: int = 0,
        max_ngram: int = 0,
        drafts_own: bool = False,
        now: float = 0.0,
    ) -> None:
        self.id = session_id
        self.tokens: list[int] = [*prompt, *committed]
        self.num_prompt = len(prompt)
        self._num_resumed = len(committed)  # output tokens that it was opened with
        self.sampling = sampling
        self.adapter = adapter  # of the target, that chooses its tokens; None: the target alone
        self.end = len(prompt) + sampling.max_tokens  # the position behind its last token
        self.slo = slo
        self.finish_reason: FinishReason | None = None

        # Tokens whose KV the verifier holds, and those that steps in flight compute.
        self.num_computed = 0
        self.parked = False  # the KV of these is in host memory
        self.overlaps = overlaps  # it may be in a step that is launched while another runs
        # Of the steps in flight that it is in, as if these accepted all their drafts: another step
        # may be decided on behind them, and what they reject is taken off when they have landed.
        self.num_in_flight = 0
        self.num_computing = 0  # tokens that they compute
        self.num_pending = 0  # tokens that they choose
        self.num_own = 0  # own drafts that are made behind them
        self._is_astray = False  # the one in flight was decided on by what proved wrong

        self.committed_s = now  # when its last token was committed, or it was opened
        self.due_s = now + slo.first_token_s  # when its edge is waited for no longer
        self.promised_s = self.due_s  # when its next token is late, by its rate from the start
        self.aimed_s = self.due_s  # and when it should be there: a little sooner

        self.has_edge = has_edge
        self.owner = owner  # whose fair share of slots and time it is
        self.directive = directive
        self.edge_late = False  # the last token had to be decoded without its edge
        self.edge_stats = EdgeStats()
        self.stream = DraftStream(self.edge_stats, max_window, now, max_forks)
        # An edge's drafts come first: they come from a model, and were paid for.
        self._sources: dict[Source, Drafts] = {Source.EDGE: self.stream}
        if max_ngram:
            self._sources[Source.NGRAM] = NgramDrafts(self.tokens, max_ngram)
        self.own_drafts = OwnDrafts() if drafts_own else None  # None: nobody makes any for it
        if self.own_drafts:
            self._sources[Source.OWN] = self.own_drafts
        self.drafts: Drafts = self.stream  # what a step may verify: of the first that has any
        self.row = b""  # as `packed` made it; every event empties it
        # As of the last `packed`, as doubles: the acceptances of `drafts`, and by place what
        # alternatives bring behind those in flight.
        self.said = self.also = b""
        self._alternatives: Sequence[Alternative] = ()

    def packed(self) -> bytes:
        """Its row of the table that decisions read (wisp/core/table.py), kept until something
        happens to it."""
        num_also, self.also, self._alternatives = 0, b"", ()
        if self.num_own:
            assert self.own_drafts, "nobody else's are in the making"
            own = [1.0] * self.num_pending + [self.own_drafts.rate] * self.num_own
            self.said = array("d", own).tobytes()
        else:
            self.said = self.drafts.acceptance.tobytes()
            if self.num_pending and self.stream.num_branches > 1 and self.drafts is self.stream:
                self._alternatives, expected = self.stream.alternatives(self.num_pending)
                num_also, self.also = len(expected), array("d", expected).tobytes()
        self.row = row_of(self, num_also)
        return self.row

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_remaining(self) -> int:
        """Output tokens still to come at most."""
        return self.end - len(self.tokens)

    @property
    def max_drafts(self) -> int:
        """That a step may verify; the last token is the target's own."""
        return self.num_remaining - self.num_pending - 1

    @property
    def num_missing(self) -> int:
        """Tokens that the verifier must still compute; 1 when it only decodes."""
        return len(self.tokens) + self.num_pending - self.num_computed

    @property
    def decoding(self) -> bool:
        return self.num_missing == 1

    @property
    def resident(self) -> bool:
        """It has KV where a step can read it."""
        return self.num_computed > 0 and not self.parked

    @property
    def buffer(self) -> list[int]:
        """The drafts of its edge that no step verifies yet."""
        return self._behind(self.stream)

    @property
    def at_hand(self) -> list[int]:
        """The drafts of the chosen source that no step verifies yet."""
        return self._behind(self.drafts)

    @property
    def next_source(self) -> Source:
        """Of `next_drafts`: own drafts in the making come first, as whatever the step in flight
        chooses they go on behind it."""
        return Source.OWN if self.num_own else self.drafts.source

    def next_drafts(self, count: int) -> list[int]:
        """The first so many that a step decided on now may verify."""
        if self.num_own:
            return [COMING] * min(count, self.num_own)
        return self.drafts.tokens[self.num_pending : self.num_pending + count]

    def alternatives(self, count: int) -> Sequence[Alternative]:
        """To the first so many at hand, by what the step in flight chooses; as of the last
        `packed`."""
        if not count or not self._alternatives:
            return ()
        return [each.cut(count) for each in self._alternatives]

    @property
    def next_due_s(self) -> float:
        """As `due_s`, of the token behind those that a step in flight chooses."""
        return self.due_s + (1.0 / self.slo.tokens_per_s if self.num_pending else 0.0)

    def _behind(self, drafts: Drafts) -> list[int]:
        """Those behind the tokens that steps in flight are taken to choose."""
        return drafts.tokens[self.num_pending :] if self.num_pending else drafts.tokens

    @property
    def free(self) -> bool:
        """It can be seated: in no step in flight, or in one that another may follow."""
        if self.num_in_flight == 0:
            return True
        follows = self.overlaps and self.num_in_flight == 1 and not self._is_astray
        return follows and self.max_drafts >= 0

    @property
    def own_rate(self) -> float:
        """P(an own draft is accepted | all before it were); 0: none is to be asked for, as nobody
        makes them or the text's n-grams do better."""
        if self.own_drafts is None:
            return 0.0
        rate = self.own_drafts.rate
        drafts = self.drafts
        is_better = drafts.source is Source.NGRAM and drafts.acceptance[0] > rate
        return 0.0 if is_better else rate

    @property
    def waits_for_edge(self) -> bool:
        """Drafts are expected: there is an edge, it is asked to draft, and it is in time."""
        return self.has_edge and self.directive.window > 0 and not self.edge_late

    @property
    def edge_resting(self) -> bool:
        """Waiting longer brings no more drafts: the edge itself waits for a verdict."""
        max_drafts = min(self.directive.window, self.num_remaining - 1)
        return self.stream.complete or len(self.stream.tokens) >= max_drafts

    def asked(self, directive: Directive) -> None:
        """Its edge is asked to draft by this from now on."""
        self.row = b""
        self.directive = directive

    def offer(self, block: DraftBlock, now: float) -> None:
        """Take a block of its edge's drafts. Raises ProtocolError, as `DraftStream.offer` does."""
        self.row = b""
        if self.stream.offer(block, self.tokens, now, keep=self.num_in_flight > 0):
            if self.stream.tokens:
                self.edge_late = False
            self._choose_drafts()

    def launched(self, num_tokens: int, num_chosen: int, num_own: int = 0) -> None:
        """It is in a step whose outcome is not known yet.

        `num_tokens`: that the step computes for it. `num_chosen`: that it chooses if it accepts all
        its drafts. From now on it is seated behind these. `num_own`: drafts that are made behind
        what is chosen.
        """
        self.row = b""
        self.num_in_flight += 1
        self.num_computing += num_tokens
        self.num_computed += num_tokens
        self.num_pending += num_chosen
        self.num_own += num_own

    def landed(self, num_tokens: int, num_chosen: int, num_own: int = 0) -> None:
        """Undoes `launched`: the step's outcome is known, or will never be."""
        self.row = b""
        self.num_in_flight -= 1
        self.num_computing -= num_tokens
        self.num_computed -= num_tokens
        self.num_pending -= num_chosen
        self.num_own -= num_own

    def follow(self, drafts: Sequence[int]) -> None:
        """These of its edge's are those that a step in flight verifies."""
        self.row = b""
        self.stream.follow(drafts)
        self._choose_drafts()

    def dropped(self, num_drafts: int) -> None:
        """So many drafts of a step in flight turn out not to continue the text."""
        self.row = b""
        self.num_computing -= num_drafts
        self.num_computed -= num_drafts
        self.num_pending -= num_drafts

    def computed(self, num_computed: int, *, as_planned: bool = True) -> None:
        """A step has landed: the verifier holds KV of so many of its committed tokens now, whatever
        steps still in flight compute.

        `as_planned`: neither was KV lost, nor was more of it there.
        """
        self.row = b""
        self._is_astray = self.num_in_flight > 0 and not as_planned
        self.num_computed = num_computed + self.num_computing

    def moved(self, num_computed: int, *, parked: bool) -> None:
        """KV of so many of its tokens is elsewhere now: parked, or back; it is in no step."""
        self.row = b""
        self.num_computed = num_computed
        self.parked = parked

    def verified(
        self,
        source: Source,
        num_drafted: int,
        tokens: Sequence[int],
        now: float,
        *,
        edge_late: bool,
    ) -> list[int]:
        """A step verified the first `num_drafted` drafts of a source, and chose `tokens`.

        Returns what was committed of them.

        `edge_late`: the step was not put off any longer for its edge, whose drafts had not come.
        """
        was_asked = self.directive.window > 0
        num_accepted = min(len(tokens) - 1, num_drafted)
        if num_drafted:
            self._sources[source].learn(num_drafted, num_accepted)
        taken = self.commit(tokens, now)
        if was_asked:
            is_edge = source is Source.EDGE
            self.edge_stats.count(num_drafted * is_edge, num_accepted * is_edge, len(taken))
            has_other = source is Source.OWN and num_drafted > 0
            self.edge_stats.stepped(num_accepted * is_edge, has_other=has_other)
        self.edge_late |= edge_late
        return taken

    def proposed(self, drafts: Proposed) -> None:
        """The server's drafter proposes these behind its last token."""
        assert self.own_drafts, "nobody else's are asked for"
        self.row = b""
        self.own_drafts.propose(drafts)
        self._choose_drafts()

    def commit(self, tokens: Sequence[int], now: float) -> list[int]:
        """Append what a step chose, up to a stop or the limit; returns what was appended."""
        self.row = b""
        taken = self._until_end(tokens)
        is_first = self.num_output == self._num_resumed
        self.tokens.extend(taken)
        self._set_deadlines(len(taken), now, is_first=is_first)
        if self.has_edge:
            self.edge_stats.answered(len(self.tokens), now)
        for drafts in self._sources.values():
            drafts.committed(taken, len(self.tokens), keep=self.num_in_flight > 0)
        self._choose_drafts()
        return taken

    def _until_end(self, tokens: Sequence[int]) -> list[int]:
        taken: list[int] = []
        for token in tokens:
            taken.append(token)
            if token in self.sampling.stop_token_ids:
                self.finish_reason = FinishReason.STOP
            elif len(taken) >= self.num_remaining:
                self.finish_reason = FinishReason.LENGTH
            if self.finish_reason:
                break
        return taken

    def _set_deadlines(self, num_tokens: int, now: float, *, is_first: bool) -> None:
        period_s = 1.0 / self.slo.tokens_per_s
        self.committed_s = now
        self.due_s = now + period_s
        ahead_s = now + period_s + _MAX_AHEAD_S
        if is_first:  # the rate begins with the first token
            self.promised_s = self.aimed_s = now
        self.promised_s = min(self.promised_s + num_tokens * period_s, ahead_s)
        self.aimed_s = min(self.aimed_s + num_tokens * period_s / _AIM, ahead_s)

    def _choose_drafts(self) -> None:
        """Its edge's, if there are any; of others those of which most can be expected."""
        if self.stream.tokens or len(self._sources) == 1:
            self.drafts = self.stream
            return
        others = [drafts for drafts in self._sources.values() if drafts.tokens]
        if len(others) > 1:
            others.sort(key=lambda drafts: -drafts.expected)
        self.drafts = others[0] if others else self.stream
