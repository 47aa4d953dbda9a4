"""A simulated device: its user, its drafter, and the real edge's end of a draft stream."""

from __future__ import annotations

import sys
from random import Random

from benchmarks.sim.events import Events
from benchmarks.sim.network import Way
from benchmarks.sim.profiles import Device
from benchmarks.sim.server import Server
from benchmarks.sim.text import Text, Texts
from benchmarks.sim.workload import Conversation, Presence, Workload
from wisp.core.drafts import Directive, Verdict
from wisp.core.request import Request, Sampling
from wisp.core.slo import Attainment, Slo
from wisp.edge.predictor import Predictor
from wisp.edge.stream import Begun, Stream
from wisp.edge.waste import Waste
from wisp.engine.messages import Draft, Failed, Open
from wisp.scheduler.tuning import MAX_WINDOW

QWEN3_VOCABULARY = 151_936  # tokens, of the target in `benchmarks.load`
_MANY = 10_000  # devices; chosen: more than any simulation has


class Result:
    """One session, as its user sees it."""

    __slots__ = (
        "attainment",
        "device",
        "ended_s",
        "kind",
        "num_accepted",
        "num_before",
        "num_drafted",
        "num_rounds",
        "opened_s",
        "waste",
    )

    def __init__(
        self, device: int, kind: str, slo: Slo, opened_s: float, num_before: int = 0
    ) -> None:
        self.device = device
        self.num_before = num_before  # tokens of the conversation that it goes on with
        self.kind = kind
        self.attainment = Attainment(slo, opened_s)
        self.opened_s = opened_s
        self.ended_s: float | None = None
        self.num_rounds = self.num_drafted = self.num_accepted = 0
        self.waste = Waste()

    def met(self, until_s: float) -> bool | None:
        """Was the promise attained? None: too early to say."""
        attainment = self.attainment
        if attainment.first_token_s is None:
            late = until_s - self.opened_s > attainment.slo.first_token_s
            return False if late else None
        return attainment.first_token_attained and attainment.rate_attained


class Tally:
    """What the users of a fleet got; tokens count from `start_s` on."""

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self.sessions: list[Result] = []
        self.num_tokens = self.num_in_time = 0

    def opened(self, session: Result) -> None:
        self.sessions.append(session)

    def tokens(self, session: Result, num_tokens: int, num_in_time: int, now: float) -> None:
        if now >= self._start_s:
            self.num_tokens += num_tokens
            self.num_in_time += num_in_time

    def ended(self, session: Result, now: float) -> None:
        """It has all its text."""


class Edge:
    """What `wisp.edge.drafting` and `wisp.edge.generation` do, in virtual time."""

    def __init__(
        self,
        number: int,
        events: Events,
        server: Server,
        profile: Device,
        up: Way,
        down: Way,
        *,
        slo: Slo,
        workload: Workload,
        presence: Presence,
        texts: Texts,
        predictor: Predictor,
        drafts: bool,
        block_tokens: int,
        max_forks: int = 0,
        met_halfway: bool = False,
        seed: int,
        tally: Tally,
    ) -> None:
        self.number = number
        self._events = events
        self._server = server
        self._profile = profile
        self._up, self.down = up, down
        self._slo = slo
        self._workload = workload
        self._presence = presence
        self._texts = texts
        self._predictor = predictor
        self._drafts = drafts
        self._block_tokens = block_tokens
        self._seed = seed
        self._tally = tally
        self._asks = Random(f"asks {seed} {number}")  # the same whatever the server does
        self._speed = Random(f"speed {seed} {number}")
        self._num_asked = 0
        self._id = self._stop = -1
        self._drafting = False  # its one thread is at work
        self._breadth = profile.breadth()
        self._max_forks = max_forks
        self._met_halfway = met_halfway
        self._stream = Stream([], 1)
        self._text = Text([], [])
        self._num_new = 0  # tokens of the prompt that its conversation has not said before
        self._conversation = Conversation(workload)
        self._result = Result(number, profile.name, slo, 0.0)
        events.at(presence.start_s, self._ask)

    def _ask(self) -> None:
        now = self._events.now
        if now > self._presence.end_s:
            return
        num_prompt, num_output, max_tokens = self._drawn()
        num_before = self._conversation.turn(num_prompt, num_output, self._asks)
        num_prompt += num_before
        # Its drafter may go on behind the end, as only the target knows where that is.
        num_known = num_output + MAX_WINDOW
        self._text = self._texts.make(num_known, (self._seed, self.number, self._num_asked))
        self._num_asked += 1
        self._stop = num_prompt + num_output - 1  # the target's choice at a position is that
        # Its first token names the conversation, if there are any; the others are positions.
        name = -1 - self.number - _MANY * self._conversation.number
        first = name if self._workload.turns > 1.0 else 0
        self._stream = Stream([first, *range(1, num_prompt)], max_tokens)
        self._num_new = num_prompt - num_before
        self._result = Result(self.number, self._profile.name, self._slo, now, num_before)
        self._tally.opened(self._result)
        self._open()

    def _drawn(self) -> tuple[int, int, int]:
        """Tokens of the next prompt and its answer, and the most that are asked for."""
        workload, chance = self._workload, self._asks
        num_prompt = workload.prompt.draw(chance)
        if not self._met_halfway:
            return num_prompt, workload.output.draw(chance), workload.max_tokens
        chance.randrange(QWEN3_VOCABULARY)  # where the text begins, which means nothing here
        if self._num_asked:
            num_output = workload.output.draw(chance)
            return num_prompt, num_output, num_output
        num_output = workload.output.met().draw(chance)
        num_done = int(chance.random() * num_output)
        return num_prompt + num_done, num_output - num_done, num_output - num_done

    def _open(self) -> None:
        self._id = self._server.next_id()
        stream = self._stream
        opening = Open(
            session_id=self._id,
            request=Request(
                prompt=stream.committed[: stream.num_prompt],
                committed=stream.committed[stream.num_prompt :],
                sampling=Sampling(
                    max_tokens=stream.max_tokens, seed=0, stop_token_ids=(self._stop,)
                ),
            ),
            slo=self._slo,
            has_edge=self._drafts,
        )
        self._up.send(self._server.open, opening, self)

    def opened(self, session_id: int, directive: Directive) -> None:
        if session_id == self._id and self._drafts:
            self._stream.directive = directive
            self._stream.max_forks = self._max_forks
            # Its drafter has kept what it computed of the conversation.
            num_known = self._stream.num_prompt - self._num_new
            num_missing = len(self._stream.committed) - num_known
            prefill_s = num_missing / self._profile.prefill_tokens_per_s
            self._events.at(self._events.now + prefill_s, self._draft)

    def failed(self, failure: Failed) -> None:
        """Refused, or shed: ask again when told to, with what is committed."""
        if failure.session_id != self._id:
            return
        self._stream.directive = Directive(0, 1.0)
        self._stream.reopen()
        wait_s = 1.0 if failure.retry_after_s is None else failure.retry_after_s
        self._events.at(self._events.now + wait_s, self._open)

    def verdict(self, session_id: int, verdict: Verdict) -> None:
        if session_id != self._id:
            return
        stream, result = self._stream, self._result
        fresh = stream.take_verdict(verdict)
        result.num_rounds += 1
        in_time = result.attainment.add(len(fresh), self._events.now)
        self._tally.tokens(result, len(fresh), in_time, self._events.now)
        self._learn()
        if verdict.finish_reason:
            self._end()
        else:
            self._flush()
            self._draft()

    def _end(self) -> None:
        stream, result = self._stream, self._result
        stream.finish()
        result.num_drafted, result.num_accepted = stream.num_drafted, stream.num_accepted
        result.waste = stream.waste
        result.ended_s = self._events.now
        self._tally.ended(result, self._events.now)
        self._id = -1
        think_s = self._workload.think(self._asks)
        self._events.at(self._events.now + think_s, self._ask)

    def _learn(self) -> None:
        for label in self._stream.take_labels():
            self._predictor.learn(label)

    def _draft(self) -> None:
        stream = self._stream
        if self._drafting or not stream.wants_token:
            return
        self._drafting = True
        leaves = stream.wanted()[: len(self._profile.branch_costs)]
        del leaves[self._breadth.best([leaf.cumulative for leaf in leaves]) :]
        begun = [stream.begin(leaf) for leaf in leaves]
        time_s = self._profile.draft_s(begun[0].position)
        time_s *= self._profile.branch_costs[len(begun) - 1]
        time_s *= self._speed.lognormvariate(0.0, self._profile.jitter)
        now = self._events.now
        self._events.at(now + time_s, self._drafted, stream, self._text, begun, time_s)

    def _drafted(self, stream: Stream, text: Text, begun: list[Begun], time_s: float) -> None:
        self._drafting = False
        for token in begun:
            stream.finish_token(
                token,
                text.proposal(token.position, token.position - stream.num_prompt),
                time_s / len(begun),
                predictor=self._predictor,
                temperature=self._texts.temperature,
                vocab_size=sys.maxsize,
            )
        self._flush()
        self._draft()

    def _flush(self) -> None:
        if block := self._stream.take_block(self._block_tokens):
            self._up.send(self._server.draft, Draft(self._id, block, 0.0))
