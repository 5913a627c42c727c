"""The line from end to end: orders of the customer, message, triage, decision, write, reply."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from csproto import settings
from csproto.desk import dialogue, transcript, triage
from csproto.desk.admission import Admission, MessageRefused
from csproto.desk.case import Decision
from csproto.desk.choices import choices
from csproto.desk.conversation import Conversation, UnderWay
from csproto.desk.handbook import Handbook, Language, default_handbook
from csproto.desk.reader import Call, Reader
from csproto.desk.reply import alternatives, language_of, stems
from csproto.desk.state import Outcome, Reading
from csproto.desk.transcript import Message
from csproto.desk.triage import Triage, Wish
from csproto.desk.turn import Decided, Done, Event, Said, Turn, Understood
from csproto.endpoint import EngineError, StopSignal
from csproto.orders import (
    NO_TICKET,
    CustomerFacts,
    OrderMoved,
    OrderSystem,
    OrderSystemDown,
    Write,
)

__all__ = ["Assistant", "Decided", "Done", "Event", "MessageRefused", "Said", "Turn", "Understood"]

NEEDS_NOTHING = ("other", "shop_question")  # wishes that can be answered without an order
DECISIONS = 3  # how often a decision is taken again because its order has moved on meanwhile
SUMMARY_LINES, LINE = 5, 200  # what a human reads first: the customer's last lines, cut to a length
logger = logging.getLogger(__name__)

MakeReader = Callable[[StopSignal], Reader]
Keep = Callable[[Conversation], None]


class Assistant:
    """Answers customers: a reader for words, an order system for facts, a handbook for rules.

    reader: makes the reader of one turn. keep: saves a conversation. prompt: the messages that
    all conversations begin with. threshold: below this sureness the desk asks back. clock: the
    present moment with its time zone. messages_per_minute: of one customer; None for any number.
    Safe to use from many threads.
    """

    def __init__(
        self,
        reader: MakeReader,
        orders: OrderSystem,
        *,
        keep: Keep,
        prompt: Sequence[Message],
        handbook: Handbook | None = None,
        threshold: float = 0.0,
        clock: Callable[[], datetime] | None = None,
        messages_per_minute: int | None = settings.MESSAGES_PER_MINUTE,
    ) -> None:
        self.reader, self.orders, self.keep, self.prompt = reader, orders, keep, prompt
        self.handbook = handbook or default_handbook()
        self.threshold = threshold
        self.clock = clock or (lambda: datetime.now(UTC))
        self.admission = Admission(messages_per_minute)

    def open(self, customer_id: str, nonce: str | None = None) -> Conversation:
        """A new conversation of a signed-in customer. Raises CustomerUnknown, OrderSystemDown.

        nonce: makes its prefix a secret; drawn at random unless one is given.
        """
        facts = self.orders.facts(customer_id)
        start = transcript.opening(facts.orders, self.handbook.values.zone, nonce)
        language: Language = "en" if facts.language == "en" else "zh"
        return Conversation(
            customer_id, self.clock(), language=language, transcript=[start], seen=facts.orders
        )

    def turn(self, conversation: Conversation, text: str) -> Turn:
        """Answer one message. Raises MessageRefused, EngineError and CustomerUnknown.

        The conversation can go on.
        """
        *_, last = self.stream(conversation, text)
        assert isinstance(last, Done)
        return last.turn

    def stream(
        self, conversation: Conversation, text: str, stop: StopSignal | None = None
    ) -> Iterator[Event]:
        """Answer one message step by step.

        stop: ends the work at once; `Stopped` is then raised. What was written stays.
        """
        began = time.perf_counter()
        with self.admission.admitted(conversation, text) as message:
            line = _Line(self, conversation, message, stop or StopSignal(), began)
            with line.undone_if_nothing_is_written():
                line.read_orders()
                yield Understood(line.understand())
                line.decide()
                yield Decided(line.write())
                yield from line.reply()
                yield Done(line.close())

    def turns(
        self, batch: Iterable[tuple[Conversation, str]], *, workers: int = 8
    ) -> list[Turn | Exception]:
        """Answer many messages, `workers` conversations at once.

        Results stand in the order of the batch.

        Messages of one conversation are answered one after the other. A failed one gives its error.
        """
        jobs, places = list(batch), dict[str, list[int]]()
        for place, (conversation, _) in enumerate(jobs):
            places.setdefault(conversation.id, []).append(place)
        results: dict[int, Turn | Exception] = {}

        def answer(conversation_id: str) -> None:
            for place in places[conversation_id]:
                try:
                    results[place] = self.turn(*jobs[place])
                except Exception as error:  # one message's; the others go on
                    results[place] = error

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(answer, places))
        return [results[place] for place in range(len(jobs))]


class _Line:
    """One message on its way through the line."""

    def __init__(
        self, desk: Assistant, conversation: Conversation, text: str, stop: StopSignal, began: float
    ) -> None:
        self.desk, self.conversation, self.text = desk, conversation, text
        self.stop, self.began, self.now = stop, began, desk.clock()
        self.reader = desk.reader(stop)
        self.facts: CustomerFacts | None = None
        self.turn = Turn(text, language_of(text, conversation.language))
        under_way = conversation.under_way
        self.interrupted = under_way if under_way and under_way.text == text else None  # by a crash
        self.outcome = Outcome((), conversation.state)
        self.before = replace(conversation, transcript=[*conversation.transcript])
        self.written = False
        self.first_text_at = 0.0

    @contextmanager
    def undone_if_nothing_is_written(self) -> Iterator[None]:
        """Leave the conversation as it was when the turn fails or is given up before it wrote."""
        try:
            yield
        except BaseException:
            if not self.written:
                vars(self.conversation).update(vars(self.before))
            raise

    # -- orders of the customer

    def read_orders(self) -> None:
        """What the shop knows of the customer.

        What has changed since the last turn is told to the model.
        """
        conversation, zone = self.conversation, self.desk.handbook.values.zone
        self.facts = self._facts()
        if self.facts is None:
            return  # the message may need no order; if it does, it is left to a human
        conversation.transcript += transcript.changes(conversation.seen, self.facts.orders, zone)
        conversation.seen = self.facts.orders
        conversation.trim(zone)

    def _facts(self) -> CustomerFacts | None:
        try:
            return self.desk.orders.facts(self.conversation.customer_id)
        except OrderSystemDown:
            return None

    # -- triage

    def understand(self) -> Turn:
        """The message as the model reads it.

        It joins the transcript once its triage is complete.
        """
        conversation, turn = self.conversation, self.turn
        conversation.language = turn.language
        if self.interrupted:  # another reading could lead to other decisions
            turn.sure, turn.runner_up = self.interrupted.sure, self.interrupted.runner_up
            raw = self.interrupted.triage
        else:
            own = [order.id for order in conversation.seen]
            state = conversation.state
            waiting, begun = state.question is not None, state.last is not None
            ebnf = triage.grammar(self.desk.handbook, self.text, own, waiting, begun)
            read = self.reader.triage(self._messages(), self.text, ebnf)
            self._count(read)
            raw, turn.sure, turn.runner_up = read.text, read.sure, read.runner_up
        conversation.transcript += [Message("user", self.text), Message("assistant", raw)]
        turn.triage = self._with_claims(triage.from_wire(raw))
        return turn

    def _with_claims(self, understood: Triage) -> Triage:
        """What the message claims about a payment, read by a program of its own."""
        wishes = [
            self._claimed(wish) if wish.intent == "payment_issue" else wish
            for wish in understood.wishes
        ]
        return replace(understood, wishes=tuple(wishes))

    def _claimed(self, wish: Wish) -> Wish:
        ebnf = triage.claims_grammar(self.desk.handbook.wishes[wish.intent], self.text)
        if self.interrupted:
            return wish
        call = self.reader.claims(self._messages(), ebnf)
        self._count(call)
        self.conversation.transcript += [
            Message("system", "payment"),
            Message("assistant", call.text),
        ]
        return replace(wish, slots=wish.slots | triage.claims_from_wire(call.text))

    # -- decision

    def decide(self) -> None:
        """The rules' decisions on the message."""
        assert self.turn.triage is not None
        if self.interrupted:
            self.outcome = self.interrupted.outcome
        elif self.facts is None:
            self.outcome = self._without_facts(self.turn.triage)
        else:
            sure = 1.0 if self.turn.sure is None else self.turn.sure
            reading = Reading(self.text, self.turn.triage, sure, self.turn.runner_up)
            self.outcome = dialogue.respond(
                reading,
                self.facts,
                self.conversation.state,
                self.now,
                self.desk.handbook,
                self.desk.threshold,
            )

    def _without_facts(self, understood: Triage) -> Outcome:
        """While the order system does not answer, what needs an order goes to a human."""
        conversation, handbook = self.conversation, self.desk.handbook
        state, question = conversation.state, conversation.state.question
        simple = understood.act == "ask" and not question
        if simple and all(w.intent in NEEDS_NOTHING and not w.orders for w in understood.wishes):
            nothing_known = CustomerFacts(conversation.customer_id, (), self.now)
            reading = Reading(self.text, understood)
            return dialogue.respond(reading, nothing_known, state, self.now, handbook)
        asked = ""
        if question:  # a bare yes would tell the human nothing
            orders = ", ".join(question.wish.orders) or "no order"
            asked = f"answer to {question.action} ({orders}): "
        intent = understood.wishes[0].intent if understood.wishes else None
        write = Write("unavailable", "", (asked + self.text)[:500], escalated=True)
        decision = Decision(intent, None, "system.unavailable", write=write)
        return Outcome((decision,), state, again=question is not None)

    # -- write

    def write(self) -> Turn:
        """Make the writes that the decisions carry, each exactly once.

        An order that has moved is decided on again.
        """
        for _ in range(DECISIONS):
            self.stop.check()  # stopped before anything is written
            try:
                return self._written()
            except OrderMoved:
                self.interrupted = None
                self.facts = self._facts()
                self.decide()
            except OrderSystemDown:
                self.facts, self.interrupted = None, None
                self.decide()
        raise OrderSystemDown(
            "The order changed each time it was looked at. Send the message again."
        )

    def _written(self) -> Turn:
        conversation, turn = self.conversation, self.turn
        if any(decision.write for decision in self.outcome.decisions):
            self._keep_under_way()
        places = enumerate(self.outcome.decisions)
        turn.decisions = tuple(self._carried_out(place, decision) for place, decision in places)
        turn.question = self.outcome.state.question
        conversation.state = self.outcome.state
        return turn

    def _carried_out(self, place: int, decision: Decision) -> Decision:
        """The decision once its write is made; the ticket that it opened becomes a fact."""
        orders, customer = self.desk.orders, self.conversation.customer_id
        if decision.write is None:
            return decision
        key, write = self._key(place, decision.write), self._detailed(decision.write)
        if write.kind == "unavailable":
            number = orders.leave_ticket(key, customer, write.detail, self.now)
        else:
            number = orders.write(key, customer, write, self.now, decision.rule)
        ticket = {"ticket": f"T{number:05d}"} if number else {}
        return replace(decision, facts={**decision.facts, **ticket})

    def _key(self, place: int, write: Write) -> str:
        """Names one write of one message: sent again, it is the same.

        Another message has another key.
        """
        message = hashlib.sha256(self.text.encode()).hexdigest()[:8]
        conversation = self.conversation
        turn = f"{conversation.id}:{conversation.turns}:{place}:{message}"
        return f"{turn}:{write.kind}:{write.order_id}"

    def _keep_under_way(self) -> None:
        """Save what was decided, before anything is written: a crash must not decide anew."""
        assert self.turn.triage is not None
        self.written, sure = True, 1.0 if self.turn.sure is None else self.turn.sure
        wire = self.turn.triage.to_wire()
        under_way = UnderWay(self.text, wire, sure, self.turn.runner_up, self.outcome)
        self.desk.keep(replace(self.before, under_way=under_way))
        self.conversation.under_way = under_way

    def _detailed(self, write: Write) -> Write:
        """The write; if it calls a human, with the customer's last lines behind its own detail."""
        if write.kind in NO_TICKET:
            return write
        messages = self.conversation.transcript
        said = [m.content[:LINE] for m in messages if m.role == "user"][-SUMMARY_LINES:]
        order = write.order_id or ", ".join(self.outcome.state.focus) or "none named"
        head = [f"order: {order}"] + ([write.detail] if write.detail != self.text else [])
        return replace(write, detail="\n".join([*head, *(f"- {line}" for line in said)]))

    # -- reply

    def reply(self) -> Iterator[Event]:
        """The model picks one of the shop's wordings.

        Should the engine fail, the plainest is sent.
        """
        conversation, turn, handbook = self.conversation, self.turn, self.desk.handbook
        brief = [(handbook.rules[d.rule].action, d.order) for d in turn.decisions]
        conversation.transcript.append(transcript.decided(brief))
        outcome = replace(self.outcome, decisions=turn.decisions)
        texts = alternatives(outcome, handbook, turn.language)
        chosen = 0
        if len(texts) > 1:
            try:
                chosen, call = self.reader.choose(self._messages(), stems(texts))
                self._count(call)
            except EngineError as error:
                logger.warning(
                    "conversation %s: the plainest wording is sent: %s", conversation.id, error
                )
        turn.reply = texts[chosen]
        turn.choices = choices(turn.question, handbook, turn.language)
        conversation.transcript.append(Message("assistant", turn.reply))
        self.first_text_at = time.perf_counter()
        yield Said(turn.reply)

    def close(self) -> Turn:
        """Save the conversation. If that fails, the same message sent again does nothing twice."""
        conversation, turn = self.conversation, self.turn
        self.desk.keep(replace(conversation, turns=conversation.turns + 1, under_way=None))
        conversation.turns, conversation.under_way = conversation.turns + 1, None
        turn.total_ms = (time.perf_counter() - self.began) * 1000
        turn.ttft_ms = (self.first_text_at - self.began) * 1000
        rules = ", ".join(decision.rule for decision in turn.decisions)
        logger.info(
            "conversation %s turn %d: %d characters, %s, %.0f ms",
            *(conversation.id, conversation.turns, len(self.text), rules, turn.total_ms),
        )
        return turn

    def _messages(self) -> list[Message]:
        """All that the model reads."""
        return [*self.desk.prompt, *self.conversation.transcript]

    def _count(self, call: Call) -> None:
        """How much of what this conversation had computed was reused.

        The last token has no KV entry yet.
        """
        conversation, turn, meta = self.conversation, self.turn, call.meta
        if not meta:
            return
        turn.usage.add(dict(meta))
        turn.reusable_tokens += conversation.computed_tokens
        turn.reused_tokens += min(meta["cached_tokens"], conversation.computed_tokens)
        conversation.computed_tokens = meta["prompt_tokens"] + meta["completion_tokens"] - 1
