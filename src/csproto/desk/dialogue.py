"""What a message does with the dialogue.

Which wishes it means, about which orders, and what stays open. Pure.

The order of things: a yes or no to the open question, then the message's wishes, then what waited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from csproto.desk.case import Case, Decision, Fact, Label
from csproto.desk.handbook import Handbook
from csproto.desk.lexicon import begins_with_yes
from csproto.desk.policy import decide
from csproto.desk.triage import Triage, Wish
from csproto.orders import CustomerFacts, OrderView, Write, foreseen

Kind = Literal["yes", "order", "detail", "reading", "human"]  # what an open question waits for

# Wishes that change nothing: an open question stays open through them.
ASIDE = ("order_status", "tracking_number", "refund_status", "shop_question", "other")
OFFER_AFTER, HAND_OVER_AFTER = 2, 3  # times in a row that a question was not answered
CANDIDATES = 6  # orders to choose from in one question


@dataclass(frozen=True)
class Question:
    """A question that waits for the customer.

    wish: what it is about, with the orders asked about. action: of the rule that asked.
    readings: the two intents between which the customer chooses, for `reading`.
    """

    kind: Kind
    action: str
    rule: str
    wish: Wish
    facts: Mapping[str, Fact] = field(default_factory=dict)
    readings: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """What carries over from turn to turn.

    focus: the orders under discussion. last: the last wish. misses: messages in a row that did not
    answer the open question. queue: wishes that wait for the question before them.
    """

    focus: tuple[str, ...] = ()
    last: Wish | None = None
    question: Question | None = None
    queue: tuple[Wish, ...] = ()
    misses: int = 0


@dataclass(frozen=True)
class Outcome:
    """The decisions on one message and the state after it.

    again: the open question is put once more.
    """

    decisions: tuple[Decision, ...]
    state: State
    again: bool = False


@dataclass(frozen=True)
class Reading:
    """A message as it was read: its triage, and how sure the model is of the first wish."""

    text: str
    triage: Triage
    sure: float = 1.0
    runner_up: str | None = None


def respond(
    reading: Reading,
    facts: CustomerFacts,
    state: State,
    now: datetime,
    handbook: Handbook,
    threshold: float = 0.0,
) -> Outcome:
    """The decisions on one message. Total: every triage that the grammar admits gets an answer.

    threshold: below this sureness the customer is asked which of two readings is meant.
    """
    turn = _Turn(reading, facts, state, now, handbook)
    triage, question = reading.triage, state.question
    if turn.is_unsure(threshold):
        turn.ask_reading()
    elif question and triage.act == "confirm":
        turn.confirmed(question)
    elif question and triage.act == "deny":
        turn.denied(question)
    elif triage.act == "correct":
        turn.corrected()
    else:
        turn.asked(triage.wishes)
    return turn.outcome()


class _Turn:
    """One message under way: decisions gather here, and the state that they lead to."""

    def __init__(
        self,
        reading: Reading,
        facts: CustomerFacts,
        state: State,
        now: datetime,
        handbook: Handbook,
    ) -> None:
        self.reading, self.facts, self.before, self.state = reading, facts, state, state
        self.now, self.handbook = now, handbook
        self.decisions: list[Decision] = []
        self.again = False

    # -- what the message does

    def is_unsure(self, threshold: float) -> bool:
        """Whether the customer has to say which of two readings is meant."""
        wishes = self.reading.triage.wishes
        asks = self.reading.triage.act == "ask" and wishes and self.reading.runner_up
        return bool(asks) and self.reading.sure < threshold

    def ask_reading(self) -> None:
        """Offer the two likeliest readings of a message."""
        first = self.reading.triage.wishes[0]
        readings = (first.intent, str(self.reading.runner_up))
        labels = {
            name: Label("wish", value)
            for name, value in zip(("first", "second"), readings, strict=True)
        }
        self.decisions.append(Decision(None, None, "unsure.clarify", labels, asks=True))
        self.state = replace(self.state, focus=self._own(first.orders) or self.state.focus)
        self._ask(
            Question(
                "reading", self._action("unsure.clarify"), "unsure.clarify", first, labels, readings
            )
        )
        self._missed()

    def confirmed(self, question: Question) -> None:
        """Carry out what was asked about, if the message itself begins with a yes."""
        if question.kind not in ("yes", "human") or not begins_with_yes(
            self.reading.text, self.handbook.lexicon
        ):
            self.asked(
                self.reading.triage.wishes
            ) if self.reading.triage.wishes else self._put_again()
            return
        same, *_ = [*(w for w in self.reading.triage.wishes if _same(w, question.wish)), None]
        if same and self._changes(question.wish, same):  # "yes, but made out to my company"
            self.asked(self.reading.triage.wishes)
            return
        self._close()
        if question.kind == "human":
            self._run(Wish("human_agent"))
        else:
            self._run(_merged(question.wish, same) if same else question.wish, agreed=True)
        self.asked(wish for wish in self.reading.triage.wishes if wish != same)

    def _changes(self, asked: Wish, said: Wish) -> bool:
        """Whether a wish has details that the question did not name."""
        slots = self.handbook.wishes[asked.intent].slots
        new = {n for n, value in said.slots.items() if asked.slots.get(n) != value}
        return any(not slots[name].unasked for name in new)

    def denied(self, question: Question) -> None:
        """Drop what was asked about."""
        self._close()
        wishes = self.reading.triage.wishes
        if not wishes:
            orders = self._views(question.wish.orders)
            facts: dict[str, Fact] = (
                {"orders": orders, "deed": Label("deed", question.wish.intent)} if orders else {}
            )
            self.decisions.append(Decision(question.wish.intent, None, "pending.dropped", facts))
        self.asked(wishes)

    def corrected(self) -> None:
        """Run the open or last wish again with what was put right."""
        base = self.before.question.wish if self.before.question else self.before.last
        wishes = self.reading.triage.wishes
        if wishes and (base is None or wishes[0].intent not in (base.intent, "other")):
            self.asked(wishes)
        elif base is None:
            self._say("other.small_talk", "other")
        elif wishes:
            first = replace(wishes[0], intent=base.intent)
            self.asked([_merged(base, first), *wishes[1:]])
        else:  # "no, the other one"
            self._run_on(
                base, [o for o in self._candidates(base.intent) if o.id not in base.orders]
            )

    def asked(self, wishes: Sequence[Wish] | Any) -> None:
        """Take the wishes of a message one after the other.

        Those behind a question wait in the queue.
        """
        waiting = list(wishes)
        if not waiting and not self.decisions:
            self._say("other.small_talk", "other")
        while waiting:
            wish = waiting.pop(0)
            if self._asks_now() and self._changes_something(wish):
                self.state = replace(self.state, queue=(*self.state.queue, wish))
            else:
                self._run(self._completed(wish))

    def outcome(self) -> Outcome:
        """The result; a wish that waited comes up when nothing is open any more."""
        while self.state.queue and not self.state.question:
            wish, *rest = self.state.queue
            self.state = replace(self.state, queue=tuple(rest))
            self._run(wish)
        if self.state.question and self.state.question is self.before.question and not self.again:
            self._put_again(missed=all(d.rule == "other.small_talk" for d in self.decisions))
        return Outcome(tuple(self.decisions), self.state, self.again)

    # -- a wish and its orders

    def _completed(self, wish: Wish) -> Wish:
        """A wish with what the open question already knows of it."""
        question = self.state.question
        if question is None:
            return wish
        if wish.intent == "other" and wish.orders:  # a bare number answers the question
            wish = replace(wish, intent=question.wish.intent)
        if wish.intent != question.wish.intent or question.kind == "reading":
            return wish
        return _merged(question.wish, wish)

    def _run(self, wish: Wish, agreed: bool = False) -> None:
        """Find the orders that a wish is about, and decide on each."""
        kind = self.handbook.wishes[wish.intent]
        orders = self._own(wish.orders)
        unknown = [number for number in wish.orders if number not in orders]
        if unknown and (kind.needs_order or wish.intent == "other"):
            self._not_found(wish, unknown, asks=not orders)
            if not orders:
                return
        if not kind.needs_order:
            self._decide(wish, [self.facts.order(orders[0])] if orders else [None])
        elif wish.intent == "order_status" and wish.slots.get("list"):
            self._decide(wish, [None])
        elif orders or self.state.focus:
            self._decide(wish, self._views(orders or self.state.focus), agreed)
        else:
            self._run_on(wish, self._candidates(wish.intent))

    def _run_on(self, wish: Wish, candidates: Sequence[OrderView]) -> None:
        """Decide on the only candidate, or ask which one is meant."""
        if len(candidates) == 1:
            self._decide(wish, candidates)
            return
        question = self._which(wish, candidates)
        self._ask_order(
            question, Decision(wish.intent, None, question.rule, question.facts, asks=True)
        )

    def _not_found(self, wish: Wish, numbers: Sequence[str], asks: bool) -> None:
        """The same words for somebody else's order and for one that does not exist."""
        question = self._which(wish, self._candidates(wish.intent))
        for number in numbers:
            facts: dict[str, Fact] = {"order": number}
            decision = Decision(wish.intent, number, "order.not_found", facts, asks=asks)
            if asks:
                self._ask_order(question, decision)
            else:
                self.decisions.append(decision)

    def _which(self, wish: Wish, candidates: Sequence[OrderView]) -> Question:
        """The question which of some orders is meant."""
        rule = "order.which" if candidates else "order.ask"
        facts: dict[str, Fact] = {"deed": Label("deed", wish.intent)}
        if candidates:
            facts["options"] = tuple(candidates[:CANDIDATES])
        return Question("order", self._action(rule), rule, replace(wish, orders=()), facts)

    def _ask_order(self, question: Question, decision: Decision) -> None:
        before = self.before.question
        again = before is not None and before.kind in ("order", "human")
        again = again and before is not None and before.wish.intent == question.wish.intent
        self.decisions.append(decision)
        self.state = replace(self.state, last=question.wish)
        self._ask(question)
        if again:
            self._missed()

    def _decide(self, wish: Wish, orders: Sequence[OrderView | None], agreed: bool = False) -> None:
        """Decide on each order by itself; what has to be confirmed is asked in one question."""
        asked: dict[str, list[Decision]] = {}
        for order in orders:
            decision = decide(self._case(wish, order, agreed))
            self.decisions.append(decision)
            if decision.write:  # what is decided next has to know of it
                self.facts = foreseen(self.facts, decision.write, self.now)
            if decision.asks:
                asked.setdefault(decision.rule, []).append(decision)
        ids = tuple(order.id for order in orders if order)
        self.state = replace(
            self.state, focus=ids or self.state.focus, last=replace(wish, orders=ids)
        )
        if asked and wish.intent in ASIDE and self.before.question:
            return  # what was open stays open
        if asked:
            self._ask_about(wish, asked)
        elif wish.intent not in ASIDE and not agreed:
            self._close()  # another wish takes the place of what was open

    def _ask_about(self, wish: Wish, asked: Mapping[str, Sequence[Decision]]) -> None:
        """Put the first rule's question about all its orders; another rule's question waits."""
        (rule, first), *others = asked.items()
        ids = tuple(d.order for d in first if d.order)
        kind: Kind = KIND_OF_RULE.get(rule, "yes")
        shared = [
            fact for fact in first[0].facts.items() if all(fact in d.facts.items() for d in first)
        ]
        facts = dict(shared) | {"orders": self._views(ids)}
        self._ask(Question(kind, self._action(rule), rule, replace(wish, orders=ids), facts))
        for _, decisions in others:
            later = replace(wish, orders=tuple(d.order for d in decisions if d.order))
            self.decisions = [d for d in self.decisions if d not in decisions]
            self.state = replace(self.state, queue=(*self.state.queue, later))

    # -- the open question

    def _ask(self, question: Question) -> None:
        before = self.before.question
        same = before is not None and before.kind in (question.kind, "human")
        self.state = replace(
            self.state, question=question, misses=self.before.misses if same else 0
        )

    def _close(self) -> None:
        self.state = replace(self.state, question=None, misses=0)

    def _asks_now(self) -> bool:
        """Whether this very message has led to a question."""
        return self.state.question is not None and self.state.question is not self.before.question

    def _changes_something(self, wish: Wish) -> bool:
        return any(rule.ask for rule in self.handbook.wishes[wish.intent].rules.values())

    def _put_again(self, missed: bool = True) -> None:
        """Put the open question once more.

        Offer a human, and hand over, when it does not get anywhere.
        """
        self.again = True
        if not self.decisions:
            self._repeat(self.state.question)
        if missed:
            self._missed()

    def _repeat(self, question: Question | None) -> None:
        """What led to the open question, decided once more."""
        if question is None:
            return
        if question.kind in ("yes", "detail"):
            for order in self._views(question.wish.orders):
                self.decisions.append(decide(self._case(question.wish, order)))
        else:
            facts, intent = question.facts, question.wish.intent
            self.decisions.append(Decision(intent, None, question.rule, facts, asks=True))

    def _missed(self) -> None:
        """Count a message that did not bring the question further."""
        misses = self.state.misses + 1
        self.state = replace(self.state, misses=misses)
        if misses >= HAND_OVER_AFTER:
            self._close()
            self.again = False
            self.decisions = [d for d in self.decisions if not d.asks]
            write = Write("handoff", "", self.reading.text, escalated=True)
            self.decisions.append(Decision("human_agent", None, "human.after_misses", write=write))
        elif misses >= OFFER_AFTER:
            self.decisions.append(Decision(None, None, "human.offer", asks=True))
            wish = self.state.question.wish if self.state.question else Wish("human_agent")
            question = Question("human", self._action("human.offer"), "human.offer", wish)
            self.state = replace(self.state, question=question)
            self.again = False

    def _say(self, rule: str, intent: str) -> None:
        self.decisions.append(Decision(intent, None, rule))

    # -- orders

    def _case(self, wish: Wish, order: OrderView | None, agreed: bool = False) -> Case:
        text = self.reading.text
        return Case(wish, order, self.facts, self.now, self.handbook, agreed, text)

    def _own(self, orders: Sequence[str]) -> tuple[str, ...]:
        return tuple(o for o in orders if self.facts.order(o))

    def _views(self, orders: Sequence[str]) -> tuple[OrderView, ...]:
        return tuple(view for o in orders if (view := self.facts.order(o)))

    def _candidates(self, intent: str) -> list[OrderView]:
        """The customer's orders that a wish fits; all of them when it fits none."""
        fits = self.handbook.wishes[intent].fits
        fitting = [
            o
            for o in self.facts.orders
            if all(getattr(o, name) in values for name, values in fits.items())
        ]
        return fitting or list(self.facts.orders)

    def _action(self, rule: str) -> str:
        return self.handbook.rules[rule].action


KIND_OF_RULE: dict[str, Kind] = {
    "address.ask": "detail",
    "invoice.title": "detail",
    "return.expired.quality_route": "detail",
    "question.unknown": "human",
}


def _shared(decisions: Sequence[Decision]) -> dict[str, Fact]:
    """The facts that all decisions have: a question about several orders must not tell one's."""
    first, *others = (decision.facts for decision in decisions)
    return {n: fact for n, fact in first.items() if all(o.get(n) == fact for o in others)}


def _same(wish: Wish, asked: Wish) -> bool:
    """Whether a wish is the one that was asked about, or says more of it."""
    return wish.intent == asked.intent and set(wish.orders) <= set(asked.orders)


def _merged(base: Wish, new: Wish) -> Wish:
    """A wish with slots given before, unless it names other orders: their slots are their own."""
    if new.orders and base.orders and set(new.orders) != set(base.orders):
        return new
    return Wish(base.intent, new.orders or base.orders, dict(base.slots) | dict(new.slots))
