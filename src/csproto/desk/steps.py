"""The steps of one turn: orders, triage, decision, write, reply.

A turn may be cut off anywhere, and the customer then sends the message again:

- Before its first write a turn saves what it decided (`under_way`). The same message then
  finds this as `interrupted`, and makes the same writes with the same idempotency keys:
  the order system makes each only once.
- A turn that fails leaves the conversation as it was `before`, except for `under_way`.
- If an order changes while the turn writes (OrderMoved), everything is decided again on new
  facts. What is `made` by then stays as it was decided.
"""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from csproto.desk import dialogue, outage, transcript, triage
from csproto.desk.case import Decision
from csproto.desk.choices import choices
from csproto.desk.conversation import Conversation, UnderWay
from csproto.desk.reader import Call
from csproto.desk.reply import alternatives, language_of, stems
from csproto.desk.state import Outcome, Reading
from csproto.desk.timing import milliseconds_since, timed
from csproto.desk.transcript import Message
from csproto.desk.triage import Triage, Wish
from csproto.desk.turn import Event, Said, Turn
from csproto.engine.endpoint import EngineError, StopSignal
from csproto.shop.facts import NO_TICKET, CustomerFacts, Write
from csproto.shop.orders import OrderMoved, OrderSystemDown

if TYPE_CHECKING:
    from csproto.desk.assistant import Assistant

DECISION_ATTEMPTS = 3  # how often a turn decides if its orders change meanwhile
SUMMARY_MESSAGES = 5  # how many of the customer's last messages a ticket quotes
SUMMARY_CHARS = 200  # of each quoted message
logger = logging.getLogger(__name__)


class Steps:
    """The steps of one turn, and what each step leaves for the next ones."""

    def __init__(
        self,
        desk: "Assistant",
        conversation: Conversation,
        text: str,
        stop: StopSignal,
        began: float,
    ) -> None:
        self.desk, self.conversation, self.text = desk, conversation, text
        self.stop, self.began, self.now = stop, began, desk.clock()
        self.reader = desk.reader(stop)
        self.facts: CustomerFacts | None = None
        self.turn = Turn(text, language_of(text, conversation.language))
        under_way = conversation.under_way
        # This same message was decided before, and the turn was cut off while it wrote.
        valid = timedelta(hours=desk.handbook.values.windows["yes_hours"])
        recent = under_way and self.now - under_way.at <= valid
        self.interrupted = under_way if under_way and recent and under_way.text == text else None
        self.outcome = Outcome((), conversation.state)
        self.before = replace(conversation, transcript=[*conversation.transcript])
        self.made: list[Decision] = []  # decisions of this turn whose writes are made
        self.first_text_at = 0.0

    @contextmanager
    def undone_by_an_error(self) -> Iterator[None]:
        """Restore the conversation if the turn ends by an error; keep what is under way."""
        try:
            yield
        except BaseException:
            under_way = self.conversation.under_way
            vars(self.conversation).update(vars(replace(self.before, under_way=under_way)))
            raise

    # -- orders of the customer

    @timed("facts")
    def read_orders(self) -> None:
        """Read the customer's facts, and tell the model which orders have changed.

        While the order system is down, `facts` is None: a message that needs no order can
        still be answered. Raises CustomerUnknown.
        """
        conversation, zone = self.conversation, self.desk.handbook.values.zone
        self.facts = self._facts()
        if self.facts is not None:
            changes = transcript.changes(conversation.seen, self.facts.orders, zone)
            conversation.transcript += changes
            conversation.seen = self.facts.orders
        conversation.trim(zone)

    def _facts(self) -> CustomerFacts | None:
        """Return the customer's facts, or None while the order system is down."""
        try:
            return self.desk.orders.facts(self.conversation.customer_id)
        except OrderSystemDown:
            return None

    # -- triage

    @timed("understood")
    def understand(self) -> Turn:
        """Let the model read the message, and add message and triage to the transcript.

        A turn that was interrupted keeps its first triage. Raises EngineError.
        """
        conversation, turn = self.conversation, self.turn
        conversation.language = turn.language
        if self.interrupted:  # a new triage might not fit the decisions that were saved
            turn.sure, turn.runner_up = self.interrupted.sure, self.interrupted.runner_up
            raw = self.interrupted.triage
        else:
            own = [order.id for order in conversation.seen]
            conversation.transcript += transcript.hints(
                self.text, conversation.seen, self.desk.guess(self.text)
            )
            state = conversation.state
            waiting, begun = state.question is not None, state.last is not None
            possible = self.desk.possible(self.text)
            ebnf = triage.grammar(self.desk.handbook, self.text, own, waiting, begun, possible)
            # The examples are for this message only, so the transcript does not keep them.
            messages = [*self._messages(), *self.desk.similar(self.text)]
            read = self.reader.triage(messages, self.text, ebnf)
            self._count_call(read)
            raw, turn.sure, turn.runner_up = read.text, read.sure, read.runner_up
        conversation.transcript += [Message("user", self.text), Message("assistant", raw)]
        turn.triage = self._add_claims(triage.from_wire(raw))
        return turn

    def _add_claims(self, understood: Triage) -> Triage:
        """Add what the message claims about a payment, read by a second model call.

        The triage of a turn that was interrupted has the claims already.
        """
        if self.interrupted:
            return understood
        wishes = [
            self._read_claims(wish) if wish.intent == "payment_issue" else wish
            for wish in understood.wishes
        ]
        return replace(understood, wishes=tuple(wishes))

    def _read_claims(self, wish: Wish) -> Wish:
        ebnf = triage.claims_grammar(self.desk.handbook.wishes[wish.intent], self.text)
        call = self.reader.claims(self._messages(), ebnf)
        self._count_call(call)
        self.conversation.transcript += [
            Message("system", "payment"),
            Message("assistant", call.text),
        ]
        return replace(wish, slots=wish.slots | triage.claims_from_wire(call.text))

    @property
    def _sure(self) -> float:
        """How sure the model was; certain if the server reported no probabilities."""
        return 1.0 if self.turn.sure is None else self.turn.sure

    # -- decision

    @timed("rule")
    def decide(self) -> None:
        """Let the rules decide on the message.

        A turn that was interrupted keeps its first decisions.
        """
        assert self.turn.triage is not None
        state = self.conversation.state
        if self.interrupted:
            self.outcome = self.interrupted.outcome
        elif self.facts is None:
            reading = Reading(self.text, self.turn.triage)
            self.outcome = outage.respond(
                reading, self.conversation.customer_id, state, self.now, self.desk.handbook
            )
        else:
            reading = Reading(self.text, self.turn.triage, self._sure, self.turn.runner_up)
            self.outcome = dialogue.respond(
                reading,
                self.facts,
                state,
                self.now,
                self.desk.handbook,
                self.desk.limits,
            )

    # -- write

    @timed("written")
    def write(self) -> Turn:
        """Make the writes of all decisions, each of them once.

        If an order has changed since it was read, everything is decided again on new
        facts; what is written already stays as it was decided. If the order system is
        down, a ticket for a human takes the place of the writes that are left. Raises
        Stopped, CustomerUnknown, and OrderSystemDown after the last attempt.
        """
        last: Exception | None = None
        for _ in range(DECISION_ATTEMPTS):
            if not self.made:
                self.stop.check()  # the last moment to stop before anything is written
            try:
                return self._make_writes()
            except OrderMoved as error:
                last, self.interrupted = error, None
                self.facts = self._facts()
                self.decide()
                self._keep_what_is_made()
            except OrderSystemDown as error:
                last, self.interrupted = error, None
                self._leave_the_rest_to_a_human()
        if isinstance(last, OrderSystemDown):
            raise last
        raise OrderSystemDown(
            "The order changed each time it was looked at. Send the message again."
        )

    def _keep_what_is_made(self) -> None:
        """Replace new decisions about what is written already by the ones that wrote it.

        A new question is then not about these orders either.
        """
        made = {(decision.intent, decision.order): decision for decision in self.made}
        question = self.outcome.state.question
        if question is not None and question is not self.conversation.state.question:
            intent = question.wish.intent
            orders = tuple(o for o in question.wish.orders if (intent, o) not in made)
            if orders != question.wish.orders:
                question = question.about(orders) if orders else None
                self.outcome = replace(
                    self.outcome, state=replace(self.outcome.state, question=question)
                )
        decisions = [made.pop((d.intent, d.order), d) for d in self.outcome.decisions]
        self.outcome = replace(self.outcome, decisions=(*made.values(), *decisions))

    def _leave_the_rest_to_a_human(self) -> None:
        """Decide to leave a ticket about the writes that may not have been made."""
        made = {(decision.intent, decision.order) for decision in self.made}
        if not made:
            self.facts = None
            self.decide()
            return
        left = [d for d in self.outcome.decisions if d.write and (d.intent, d.order) not in made]
        if any(d.write and d.write.kind == "unavailable" for d in left):
            return  # this ticket is what is left
        about = ", ".join(f"{d.intent} {d.order or ''}".strip() for d in left)
        intent = left[0].intent if left else None
        ticket = outage.ticket(intent, f"please check whether this is done: {about}: {self.text}")
        self.outcome = replace(self.outcome, decisions=(*self.made, ticket))

    def _make_writes(self) -> Turn:
        """Save the decisions if any of them writes, then make the writes."""
        conversation, turn = self.conversation, self.turn
        if any(decision.write for decision in self.outcome.decisions):
            self._save_under_way()
        turn.decisions = tuple(self._make_write(decision) for decision in self.outcome.decisions)
        turn.question = self.outcome.state.question
        conversation.state = self.outcome.state
        return turn

    def _make_write(self, decision: Decision) -> Decision:
        """Make a decision's write, and return the decision with its ticket number.

        A decision without a write, or whose write is made, is returned unchanged.
        Raises OrderMoved, OrderSystemDown and CustomerUnknown.
        """
        orders, customer = self.desk.orders, self.conversation.customer_id
        if decision.write is None or decision in self.made:
            return decision
        key = self._idempotency_key(decision.write)
        write = self._with_summary(decision.write)
        if write.kind == "unavailable":
            number = orders.leave_ticket(key, customer, write.detail, self.now)
        else:
            number = orders.write(key, customer, write, self.now, decision.rule)
        self.made.append(decision.with_ticket(number))
        return self.made[-1]

    def _idempotency_key(self, write: Write) -> str:
        """Return the idempotency key of one write.

        If the same message is sent again in the same turn, its writes have the same
        keys, and the order system makes each of them only once: one of each kind for
        each order. Another message has other keys.
        """
        message = hashlib.sha256(self.text.encode()).hexdigest()[:8]
        conversation = self.conversation
        turn = f"{conversation.id}:{conversation.turns}:{message}"
        return f"{turn}:{write.kind}:{write.order_id}"

    def _save_under_way(self) -> None:
        """Save the decisions before the first write (see UnderWay for the reason)."""
        assert self.turn.triage is not None
        wire = self.turn.triage.to_wire()
        under_way = UnderWay(
            self.text, self.now, wire, self._sure, self.turn.runner_up, self.outcome
        )
        self.desk.keep(replace(self.before, under_way=under_way))
        self.conversation.under_way = under_way

    def _with_summary(self, write: Write) -> Write:
        """Return a write with a summary for the human who reads its ticket.

        The summary has the order, the write's own detail and the customer's last
        messages. A write that opens no ticket is returned unchanged.
        """
        if write.kind in NO_TICKET:
            return write
        messages = self.conversation.transcript
        said = [m.content[:SUMMARY_CHARS] for m in messages if m.role == "user"][-SUMMARY_MESSAGES:]
        order = write.order_id or ", ".join(self.outcome.state.focus) or "none named"
        head = [f"order: {order}"] + ([write.detail] if write.detail != self.text else [])
        return replace(write, detail="\n".join([*head, *(f"- {text}" for text in said)]))

    # -- reply

    def reply(self) -> Iterator[Event]:
        """Let the model choose one of the shop's wordings, and yield it.

        If the model fails, the plainest wording is sent: the decisions are written, so
        the customer has to hear about them.
        """
        began = time.perf_counter()
        conversation, turn, handbook = self.conversation, self.turn, self.desk.handbook
        brief = [(handbook.rules[d.rule].action, d.order) for d in turn.decisions]
        conversation.transcript.append(transcript.decided(brief))
        outcome = replace(self.outcome, decisions=turn.decisions)
        texts = alternatives(outcome, handbook, turn.language)
        chosen = 0
        if len(texts) > 1:
            try:
                chosen, call = self.reader.choose(self._messages(), stems(texts))
                self._count_call(call)
            except EngineError as error:
                logger.warning(
                    "conversation %s: the plainest wording is sent: %s", conversation.id, error
                )
        turn.reply = texts[chosen]
        turn.choices = choices(turn.question, handbook, turn.language)
        conversation.transcript.append(Message("assistant", turn.reply))
        self.first_text_at = time.perf_counter()
        turn.times["said"] = milliseconds_since(began)
        yield Said(turn.reply)

    def close(self) -> Turn:
        """Save the conversation and return the finished turn.

        If saving fails, the same message can be sent again and no write is made twice:
        the database still has the decisions of a turn that wrote something.
        """
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
        """Return everything that the model reads in the next call."""
        return [*self.desk.prompt, *self.conversation.transcript]

    def _count_call(self, call: Call) -> None:
        """Add one model call to the figures of the turn.

        `reusable_tokens` grows by what earlier calls of this conversation had computed,
        and `reused_tokens` by how much of that came from the cache. The last token that
        a model writes has no KV entry yet, so it does not count as computed.
        """
        conversation, turn, meta = self.conversation, self.turn, call.meta
        if not meta:
            return
        turn.usage.add(dict(meta))
        turn.reusable_tokens += conversation.computed_tokens
        turn.reused_tokens += min(meta["cached_tokens"], conversation.computed_tokens)
        conversation.computed_tokens = meta["prompt_tokens"] + meta["completion_tokens"] - 1
