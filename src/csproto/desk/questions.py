"""The open question of a dialogue: asked, repeated, closed, given up after too many misses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from csproto.desk.case import Case, Decision, Fact
from csproto.desk.handbook import Handbook
from csproto.desk.policy import decide
from csproto.desk.state import Kind, Question, Reading, State
from csproto.desk.transcript import ORDERS_SHOWN
from csproto.desk.triage import Wish
from csproto.shop.facts import CustomerFacts, OrderView, Write, foreseen

OFFER_AFTER = 2  # after so many misses the desk offers a human
HAND_OVER_AFTER = 3  # after so many misses a human takes over


class Questions:
    """Collects the decisions on one message and the state after it, the open question above all.

    before: the state before the message. again: the open question is repeated.
    """

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

    def ask(self, question: Question) -> None:
        """Open a question.

        - The misses go on counting if the desk asks again for a choice of order or of
          wish; otherwise they begin at 0.
        - A question about another wish interrupts the one that is open: that one is
          kept in `behind` and comes back. A choice between two wishes, and the offer of
          a human, are settled by any other wish.
        """
        before = self.before.question
        choice = question.kind in ("order", "reading")
        stuck = choice and before and before.kind in (question.kind, "human")
        misses = self.before.misses if stuck else 0
        if before and self.state.question is before and before.kind not in ("reading", "human"):
            other = question.wish.intent != before.wish.intent
            if other and (older := self.state.behind) and older.wish.orders:
                self.add_to_queue(older.wish)
            self.state = replace(self.state, behind=before if other else self.state.behind)
        self.state = replace(self.state, question=question, misses=misses)

    def ask_order(self, question: Question) -> None:
        """Ask which order is meant. Asking again for the same wish is a miss."""
        before = self.before.question
        self.state = replace(self.state, last=question.wish)
        self.ask(question)
        same_wish = before and before.wish.intent == question.wish.intent
        if before and same_wish and before.kind in ("order", "human"):
            self.count_miss()

    def ask_about(self, wish: Wish, asked: Mapping[str, Sequence[Decision]]) -> None:
        """Ask the first rule's question about all orders of that rule.

        Orders with another rule's question wait in the queue, also those that are too
        many to be named in one question.
        """
        first, *groups = [
            part for decisions in asked.values() for part in _parts(decisions, ORDERS_SHOWN)
        ]
        rule, ids = first[0].rule, tuple(d.order for d in first if d.order)
        kind: Kind = self.handbook.rules[rule].waits
        facts = _shared_facts(first) | {"orders": self.views(ids)}
        about = replace(wish, orders=ids)
        self.ask(Question(kind, self.action(rule), rule, about, self.now, facts))
        for decisions in groups:
            self.decisions = [d for d in self.decisions if d not in decisions]
            self.add_to_queue(replace(wish, orders=tuple(d.order for d in decisions if d.order)))

    def close_if_answered(self, wish: Wish) -> None:
        """Close the earlier question if a wish that asked nothing answers it.

        - The same wish answers it; a question for a yes is answered only by a wish for
          all of its orders.
        - Any wish but `other` settles a choice between two wishes or the offer of a
          human.
        - A wish for a human settles every earlier question, and what waits behind it.
        """
        if wish.intent == "human_agent":
            queue = tuple(w for w in self.state.queue if w not in self.before.queue)
            self.state = replace(self.state, behind=None, queue=queue)
        question = self.before.question
        if question is None or self.state.question is not question or wish.intent == "other":
            return
        answers = wish.intent == question.wish.intent
        if question.kind == "yes":
            answers = answers and set(wish.orders) >= set(question.wish.orders)
        if answers or question.kind in ("reading", "human") or wish.intent == "human_agent":
            self.close_question()

    def close_question(self) -> None:
        self.state = replace(self.state, question=None, misses=0)

    def add_to_queue(self, wish: Wish) -> None:
        if wish not in self.state.queue:
            self.state = replace(self.state, queue=(*self.state.queue, wish))

    def drop_from_queue(self, intent: str, orders: Sequence[str]) -> None:
        """Drop waiting wishes that the customer has just said again."""
        queue = self.state.queue
        said = [w for w in queue if w.intent == intent and w.orders and {*w.orders} <= {*orders}]
        self.state = replace(self.state, queue=tuple(w for w in queue if w not in said))

    def has_asked(self) -> bool:
        """Return whether this message has already led to a question."""
        return self.state.question is not None and self.state.question is not self.before.question

    def repeat_question(self, missed: bool = True) -> None:
        """Repeat the open question, or close it if the rules no longer ask it.

        missed: whether the message counts as a miss, because it should have answered
        the question.
        """
        question = self.state.question
        if question is None:
            return
        repeated = self.decided_again(question)
        as_before = [decision for decision in repeated if decision.rule == question.rule]
        # What the rules say now is news. A change needs a new wish.
        others = [decision for decision in repeated if decision not in as_before]
        news = [decision for decision in others if not decision.asks and not decision.write]
        if not as_before:
            self.close_question()
            self.decisions = self.decisions or news
            if not self.decisions:  # what was asked about is gone
                self.add_decision("other.small_talk", "other")
            return
        if others:
            left = [decision.order for decision in as_before if decision.order]
            self.state = replace(self.state, question=question.about(left))
        self.again = True
        self.decisions = self.decisions or [*news, *as_before]
        if missed:
            self.count_miss()

    def decided_again(self, question: Question) -> list[Decision]:
        """Decide again what led to a question, on the present facts."""
        if question.kind in ("yes", "detail"):
            views = self.views(question.wish.orders)
            return [decide(self.case(question.wish, order)) for order in views]
        facts, intent = question.facts, question.wish.intent
        return [Decision(intent, None, question.rule, facts, asks=True)]

    def count_miss(self) -> None:
        """Count a miss. After several misses, offer a human or hand over to one."""
        misses = self.state.misses + 1
        if misses >= HAND_OVER_AFTER:
            self.hand_over()
        elif misses >= OFFER_AFTER:
            rule = "human.offer"
            self.decisions = [d for d in self.decisions if d.rule != "other.small_talk"]
            self.decisions.append(Decision(None, None, rule, asks=True))
            wish = self.state.question.wish if self.state.question else Wish("human_agent")
            question = Question("human", self.action(rule), rule, wish, self.now)
            self.state = replace(self.state, question=question, misses=misses)
            self.again = False
        else:
            self.state = replace(self.state, misses=misses)

    def hand_over(self) -> None:
        """Hand over to a human, and drop every question and waiting wish."""
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

    def add_decision(self, rule: str, intent: str) -> None:
        self.decisions.append(Decision(intent, None, rule))

    def changes(self, asked: Wish, said: Wish) -> bool:
        """Return whether a wish has details that the question did not name.

        Slots marked `unasked` do not count: no question names them.
        """
        slots = self.handbook.wishes[asked.intent].slots
        new = {n for n, v in said.slots.items() if asked.slots.get(n, slots[n].default) != v}
        return any(not slots[name].unasked for name in new)

    def case(self, wish: Wish, order: OrderView | None, agreed: bool = False) -> Case:
        text = self.reading.text
        return Case(wish, order, self.facts, self.now, self.handbook, agreed, text)

    def own_orders(self, orders: Sequence[str]) -> tuple[str, ...]:
        """Return the numbers that are orders of this customer."""
        return tuple(o for o in orders if self.facts.order(o))

    def views(self, orders: Sequence[str]) -> tuple[OrderView, ...]:
        """Return the customer's orders with these numbers."""
        return tuple(view for o in orders if (view := self.facts.order(o)))

    def candidates(self, intent: str) -> list[OrderView]:
        """Return the customer's orders that fit a wish, or all of them if none fits."""
        wish, orders = self.handbook.wishes[intent], self.facts.orders
        return [order for order in orders if wish.suits(order)] or list(orders)

    def action(self, rule: str) -> str:
        return self.handbook.rules[rule].action


def _shared_facts(decisions: Sequence[Decision]) -> dict[str, Fact]:
    """Return the facts that all decisions share.

    A question about several orders must not give a fact that is true of only one of
    them.
    """
    first, *others = (decision.facts for decision in decisions)
    return {n: fact for n, fact in first.items() if all(o.get(n) == fact for o in others)}


def _parts(decisions: Sequence[Decision], size: int) -> list[Sequence[Decision]]:
    """Return decisions in parts of at most `size`."""
    return [decisions[start : start + size] for start in range(0, len(decisions), size)]
