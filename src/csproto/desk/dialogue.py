"""Decides what one message changes in the dialogue: its wishes, their orders, what stays open.

Pure. Sequence: a yes or no to the open question, then the message's wishes, then the wishes that
waited.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from csproto.desk.case import Case, Decision, Fact, Label
from csproto.desk.handbook import Handbook
from csproto.desk.lexicon import begins_with_yes
from csproto.desk.policy import decide
from csproto.desk.state import Kind, Outcome, Question, Reading, State
from csproto.desk.triage import Wish
from csproto.orders import CustomerFacts, OrderView, Write, foreseen

# After how many messages in a row that did not answer a question.
OFFER_AFTER, HAND_OVER_AFTER = 2, 3
# Wishes that change nothing. A question of theirs interrupts the open one, which is asked again.
ASIDE = ("order_status", "tracking_number", "refund_status")
CANDIDATES = 6  # orders to choose from in one question
KIND_OF_RULE: dict[str, Kind] = {  # what a rule's question waits for, if not a yes
    "address.ask": "detail",
    "invoice.title": "detail",
    "return.expired.quality_route": "detail",
    "question.unknown": "human",
}


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
    """One message: collects the decisions on it and the state after it."""

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
        first, rule = self.reading.triage.wishes[0], "unsure.clarify"
        readings = (first.intent, str(self.reading.runner_up))
        labels = {"first": Label("wish", readings[0]), "second": Label("wish", readings[1])}
        self.decisions.append(Decision(None, None, "unsure.clarify", labels, asks=True))
        self.state = replace(self.state, focus=self._own(first.orders) or self.state.focus)
        self._ask(Question("reading", self._action(rule), rule, first, labels, readings))
        for wish in self.reading.triage.wishes[1:]:
            self._later(wish)
        self._missed()

    def confirmed(self, question: Question) -> None:
        """Carry out what was asked about, if the message itself begins with a yes."""
        wishes = self.reading.triage.wishes
        heard = begins_with_yes(self.reading.text, self.handbook.lexicon)
        if question.kind not in ("yes", "human") or not heard:
            self.asked(wishes) if wishes else self._put_again()
            return
        asked = question.wish
        said = [wish for wish in wishes if question.kind == "yes" and wish.intent == asked.intent]
        if any(self._changes(asked, wish) for wish in said):  # "yes, but made out to my company"
            self.asked(wishes)
            return
        self._close()
        if question.kind == "human":
            self._run(Wish("human_agent"))
        else:
            self._carry_out(question, [order for wish in said for order in wish.orders])
        more = [o for wish in said for o in wish.orders if o not in asked.orders]
        new = [Wish(asked.intent, tuple(more))] if more else []
        self.asked([*new, *(wish for wish in wishes if wish not in said)])

    def _carry_out(self, question: Question, said: Sequence[str]) -> None:
        """Do what was asked about, for the orders that the yes names, else for all.

        An order for which the rules would no longer put this very question is decided on anew: the
        customer agreed to something else.
        """
        chosen = [order for order in question.wish.orders if order in said]
        views = self._views(chosen or question.wish.orders)
        stands = [decide(self._case(question.wish, order)).rule == question.rule for order in views]
        agreed = [order for order, same in zip(views, stands, strict=True) if same]
        changed = [order for order, same in zip(views, stands, strict=True) if not same]
        self._decide(question.wish, agreed, agreed=True) if agreed else None
        self._decide(question.wish, changed) if changed else None

    def denied(self, question: Question) -> None:
        """Drop what was asked about, and take what is wanted instead."""
        self._close()
        wishes = [
            wish
            for wish in self.reading.triage.wishes
            if not _same(wish, question.wish) or self._changes(question.wish, wish)
        ]
        if not wishes:
            orders, deed = self._views(question.wish.orders), Label("deed", question.wish.intent)
            told = orders and question.kind != "human"
            facts: dict[str, Fact] = {"orders": orders, "deed": deed} if told else {}
            self.decisions.append(Decision(question.wish.intent, None, "pending.dropped", facts))
        self.asked(wishes)

    def corrected(self) -> None:
        """Run the open or last wish again with what was put right."""
        base = self.before.question.wish if self.before.question else self.before.last
        wishes = self.reading.triage.wishes
        if base is None and not wishes:
            self._say("other.small_talk", "other")
        elif base is None or (wishes and wishes[0].intent not in (base.intent, "other")):
            self.asked(wishes)
        elif wishes:
            slots = dict(base.slots) | dict(wishes[0].slots)
            first = Wish(base.intent, wishes[0].orders or base.orders, slots)
            self.state = replace(self.state, question=None)
            self.asked([first, *wishes[1:]])
        else:  # "no, the other one"
            meant = base.orders or self.state.focus
            fitting = [o for o in self._candidates(base.intent) if o.id not in meant]
            others = [o for o in self.facts.orders if o.id not in meant]
            self._run_on(base, fitting or others or self.facts.orders)

    def asked(self, wishes: Iterable[Wish]) -> None:
        """Take the wishes of a message one after the other.

        Those behind a question that has just come up wait in the queue.
        """
        waiting = list(wishes)
        if not waiting and not self.decisions:
            self._say("other.small_talk", "other")
        real = [wish for wish in waiting if wish.intent != "other" or wish.orders]
        for wish in real or (waiting if not self.decisions else []):  # "cancel it, thanks"
            if self._asks_now() and self._may_ask(wish):
                self._later(wish)
            else:
                self._run_completed(wish)

    def outcome(self) -> Outcome:
        """The result; a wish that waited comes up when nothing is open any more."""
        while self.state.queue and not self.state.question:
            wish, *rest = self.state.queue
            self.state = replace(self.state, queue=tuple(rest))
            self._run(wish)
        if self.state.question and self.state.question is self.before.question and not self.again:
            missed = all(d.rule == "other.small_talk" for d in self.decisions)
            self._put_again(missed)
        elif self.state.behind and not self.state.question:
            question = self.state.behind
            self.state = replace(self.state, question=question, behind=None)
            self._put_again(missed=False)
        return Outcome(tuple(self.decisions), self.state, self.again)

    # -- a wish and its orders

    def _run_completed(self, wish: Wish) -> None:
        """Run a wish with what the open question already knows of it."""
        question = self.state.question
        if question and wish.intent == "other" and wish.orders:  # a bare number answers it
            wish = replace(wish, intent=question.wish.intent)
        if question is None or wish.intent != question.wish.intent:
            self._run(wish)
            return
        asked, new = question.wish, [o for o in wish.orders if o not in question.wish.orders]
        if question.kind == "yes" and new and asked.orders:  # "and 160001 as well"
            if wish.slots or asked.slots:  # each with details of its own: the newest first
                self._later(asked)
                self._run(wish)
            else:
                self._run(replace(wish, orders=(*asked.orders, *new)))
            return
        left = tuple(o for o in asked.orders if o not in wish.orders)
        if question.kind == "detail" and wish.orders and left:  # the answer is for one of them
            self._later(replace(asked, orders=left))
        self._run(_merged(asked, wish))

    def _run(self, wish: Wish) -> None:
        """Find the orders that a wish is about, and decide on each."""
        kind = self.handbook.wishes[wish.intent]
        orders = self._own(wish.orders)
        unknown = [number for number in wish.orders if number not in orders]
        if unknown and (kind.needs_order or wish.intent == "other"):
            self._not_found(wish, unknown, asks=not orders)
            if not orders:
                return
        about = self._views(orders or (self.state.focus if kind.needs_order else ()))
        if wish.intent == "order_status" and wish.slots.get("list"):
            self._decide(wish, [None])
        elif about:
            self._decide(wish, about if kind.each_order else about[:1])
        elif not kind.needs_order:
            self._decide(wish, [None])
        else:
            self._run_on(wish, self._candidates(wish.intent))

    def _run_on(self, wish: Wish, candidates: Sequence[OrderView]) -> None:
        """Decide on the only candidate, or ask which one is meant."""
        if len(candidates) == 1:
            self._decide(wish, candidates)
            return
        question = self._which(wish, candidates)
        decision = Decision(wish.intent, None, question.rule, question.facts, asks=True)
        self.decisions.append(decision)
        self._ask_order(question)

    def _not_found(self, wish: Wish, numbers: Sequence[str], asks: bool) -> None:
        """Report unknown numbers; somebody else's order and one that does not exist are alike."""
        for number in numbers:
            facts: dict[str, Fact] = {"order": number}
            self.decisions.append(
                Decision(wish.intent, number, "order.not_found", facts, asks=asks)
            )
        if asks:
            self._ask_order(self._which(wish, self._candidates(wish.intent)))

    def _which(self, wish: Wish, candidates: Sequence[OrderView]) -> Question:
        """The question which of some orders is meant."""
        rule = "order.which" if candidates else "order.ask"
        facts: dict[str, Fact] = {"deed": Label("deed", wish.intent)}
        if candidates:
            facts["options"] = tuple(candidates[:CANDIDATES])
        return Question("order", self._action(rule), rule, replace(wish, orders=()), facts)

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
        last = replace(wish, orders=ids)
        self.state = replace(self.state, focus=ids or self.state.focus, last=last)
        if not asked:
            self._settle(last)
        elif wish.intent != "shop_question" or not self.state.question:
            self._ask_about(wish, asked)  # an offer of a human leaves what was open open

    def _ask_about(self, wish: Wish, asked: Mapping[str, Sequence[Decision]]) -> None:
        """Put the first rule's question about all its orders; another rule's question waits."""
        (rule, first), *others = asked.items()
        ids = tuple(d.order for d in first if d.order)
        kind: Kind = KIND_OF_RULE.get(rule, "yes")
        facts = _shared(first) | {"orders": self._views(ids)}
        self._ask(Question(kind, self._action(rule), rule, replace(wish, orders=ids), facts))
        for _, decisions in others:
            self.decisions = [d for d in self.decisions if d not in decisions]
            self._later(replace(wish, orders=tuple(d.order for d in decisions if d.order)))

    # -- the open question

    def _ask(self, question: Question) -> None:
        """Open a question. The misses count on if it is the same kind of question again."""
        before = self.before.question
        stuck = question.kind in ("order", "reading") and before is not None
        stuck = stuck and before is not None and before.kind in (question.kind, "human")
        misses = self.before.misses if stuck else 0
        aside = question.kind == "reading" or question.wish.intent in ASIDE
        if before and self.state.question is before and aside and before.kind != "human":
            other = question.wish.intent != before.wish.intent or question.kind != before.kind
            self.state = replace(self.state, behind=before if other else self.state.behind)
        self.state = replace(self.state, question=question, misses=misses)

    def _ask_order(self, question: Question) -> None:
        before = self.before.question
        again = before is not None and before.kind in ("order", "human")
        again = again and before is not None and before.wish.intent == question.wish.intent
        self.state = replace(self.state, last=question.wish)
        self._ask(question)
        if again:
            self._missed()

    def _settle(self, wish: Wish) -> None:
        """Close the earlier question if this wish, which needs none, answered it."""
        question = self.before.question
        if question is None or self.state.question is not question or wish.intent == "other":
            return
        answers = wish.intent == question.wish.intent
        if question.kind == "yes":
            answers = answers and set(wish.orders) >= set(question.wish.orders)
        if answers or question.kind in ("reading", "human") or wish.intent == "human_agent":
            self._close()

    def _close(self) -> None:
        self.state = replace(self.state, question=None, misses=0)

    def _later(self, wish: Wish) -> None:
        self.state = replace(self.state, queue=(*self.state.queue, wish))

    def _asks_now(self) -> bool:
        """Whether this very message has led to a question."""
        return self.state.question is not None and self.state.question is not self.before.question

    def _may_ask(self, wish: Wish) -> bool:
        kind = self.handbook.wishes[wish.intent]
        return kind.needs_order and any(rule.ask for rule in kind.rules.values())

    def _put_again(self, missed: bool = True) -> None:
        """Put the open question once more, unless the rules no longer ask it.

        missed: the message should have answered it. After two such messages a human is offered,
        after three the conversation is handed over.
        """
        question = self.state.question
        if question is None:
            return
        repeated = self._repeated(question)
        if not any(decision.asks for decision in repeated):
            self._close()
            self.decisions = self.decisions or repeated
            return
        self.again = True
        self.decisions = self.decisions or repeated
        if missed:
            self._missed()

    def _repeated(self, question: Question) -> list[Decision]:
        """The decisions that led to a question, taken again."""
        if question.kind in ("yes", "detail"):
            views = self._views(question.wish.orders)
            return [decide(self._case(question.wish, order)) for order in views]
        facts, intent = question.facts, question.wish.intent
        return [Decision(intent, None, question.rule, facts, asks=True)]

    def _missed(self) -> None:
        """Count a message that did not bring the question further."""
        misses = self.state.misses + 1
        if misses >= HAND_OVER_AFTER:
            self._hand_over()
        elif misses >= OFFER_AFTER:
            rule = "human.offer"
            self.decisions.append(Decision(None, None, rule, asks=True))
            wish = self.state.question.wish if self.state.question else Wish("human_agent")
            question = Question("human", self._action(rule), rule, wish)
            self.state = replace(self.state, question=question, misses=misses)
            self.again = False
        else:
            self.state = replace(self.state, misses=misses)

    def _hand_over(self) -> None:
        """Give the conversation to a human: asking goes on no longer."""
        self.state = replace(self.state, question=None, queue=(), behind=None, misses=0)
        self.again = False
        self.decisions = [d for d in self.decisions if not d.asks]
        if any(kind == "handoff" for kind, _ in self.facts.open_tickets):
            self.decisions.append(Decision("human_agent", None, "human.open_already"))
            return
        write = Write("handoff", "", self.reading.text, escalated=True)
        self.facts = foreseen(self.facts, write, self.now)
        self.decisions.append(Decision("human_agent", None, "human.after_misses", write=write))

    # -- small things

    def _say(self, rule: str, intent: str) -> None:
        self.decisions.append(Decision(intent, None, rule))

    def _changes(self, asked: Wish, said: Wish) -> bool:
        """Whether a wish has details that the question did not name."""
        slots = self.handbook.wishes[asked.intent].slots
        new = {n for n, v in said.slots.items() if asked.slots.get(n, slots[n].default) != v}
        return any(not slots[name].unasked for name in new)

    def _case(self, wish: Wish, order: OrderView | None, agreed: bool = False) -> Case:
        text = self.reading.text
        return Case(wish, order, self.facts, self.now, self.handbook, agreed, text)

    def _own(self, orders: Sequence[str]) -> tuple[str, ...]:
        return tuple(o for o in orders if self.facts.order(o))

    def _views(self, orders: Sequence[str]) -> tuple[OrderView, ...]:
        return tuple(view for o in orders if (view := self.facts.order(o)))

    def _candidates(self, intent: str) -> list[OrderView]:
        """The customer's orders that a wish fits; all of them when it fits none."""
        fits = self.handbook.wishes[intent].fits.items()
        orders = self.facts.orders
        return [o for o in orders if all(getattr(o, n) in v for n, v in fits)] or list(orders)

    def _action(self, rule: str) -> str:
        return self.handbook.rules[rule].action


def _shared(decisions: Sequence[Decision]) -> dict[str, Fact]:
    """The facts that all decisions have: a question about several orders must not tell one's."""
    first, *others = (decision.facts for decision in decisions)
    return {n: fact for n, fact in first.items() if all(o.get(n) == fact for o in others)}


def _same(wish: Wish, asked: Wish) -> bool:
    """Whether a wish is the one that was asked about, or says more of it."""
    return wish.intent == asked.intent and set(wish.orders) <= set(asked.orders)


def _merged(base: Wish, new: Wish) -> Wish:
    """A wish with the slots given before, unless it names orders that were not spoken of."""
    if new.orders and base.orders and not set(new.orders) <= set(base.orders):
        return new
    return Wish(base.intent, new.orders or base.orders, dict(base.slots) | dict(new.slots))
