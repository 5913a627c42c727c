"""Decides what one message changes in the dialogue.

First comes a yes or no to the open question, then the wishes of the message, then the
wishes that had to wait. Everything here is pure: nothing is read or written outside.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from csproto.desk.case import Decision, Fact, Label
from csproto.desk.handbook import Handbook
from csproto.desk.lexicon import is_bare_yes
from csproto.desk.policy import decide
from csproto.desk.questions import Questions
from csproto.desk.state import SURE, Limits, Outcome, Question, Reading, State
from csproto.desk.triage import Wish
from csproto.desk.yes import Yes
from csproto.shop.facts import CustomerFacts, OrderView, foreseen

MAX_CANDIDATES = 6  # orders to choose from in one question


def respond(
    reading: Reading,
    facts: CustomerFacts,
    state: State,
    now: datetime,
    handbook: Handbook,
    limits: Limits = SURE,
) -> Outcome:
    """Decide on one message. Every triage that the grammar admits gets an answer.

    state: the dialogue before the message. limits: how sure the model must be; if it is
    less sure, the customer is asked which of two wishes is meant.
    """
    dialogue = Dialogue(reading, facts, state, now, handbook)
    triage, question = reading.triage, state.question
    if dialogue.is_unsure(limits):
        dialogue.ask_reading()
    elif question and triage.act == "confirm" and dialogue.doubts_the_yes(limits):
        dialogue.run_wishes(triage.wishes) if triage.wishes else dialogue.repeat_question()
    elif question and triage.act == "confirm":
        dialogue.confirmed(question)
    elif question and triage.act == "deny":
        dialogue.denied(question)
    elif triage.act == "correct":
        dialogue.corrected()
    else:
        dialogue.run_wishes(triage.wishes)
    return dialogue.outcome()


class Dialogue(Questions):
    """What one message does: each method takes one way in which customers write."""

    # -- what the message does

    def is_unsure(self, limits: Limits) -> bool:
        """Return whether the customer has to say which of two wishes is meant."""
        wishes = self.reading.triage.wishes
        limit = limits.answering if self.reading.triage.act == "ask" else 0.0
        if any(self.handbook.wishes[wish.intent].at_once for wish in wishes):
            limit = max(limit, limits.writing)
        return bool(wishes) and self.reading.sure < limit

    def doubts_the_yes(self, limits: Limits) -> bool:
        """Return whether the model was not sure enough of a yes.

        A message that is nothing but a yes needs no more than the model's agreement: there
        is nothing in it that could mean less.
        """
        bare = is_bare_yes(self.reading.text, self.handbook.lexicon)
        return not bare and self.reading.sure < limits.writing

    def ask_reading(self) -> None:
        """Ask which of the two likeliest wishes is meant. The other wishes wait."""
        first, rule = self.reading.triage.wishes[0], "unsure.clarify"
        # Without a runner-up, the other choice is a human, or just talk instead of a human.
        instead = "other" if first.intent == "human_agent" else "human_agent"
        readings = (first.intent, self.reading.runner_up or instead)
        labels = {"first": Label("wish", readings[0]), "second": Label("wish", readings[1])}
        self.decisions.append(Decision(None, None, "unsure.clarify", labels, asks=True))
        self.state = replace(self.state, focus=self.own_orders(first.orders) or self.state.focus)
        self.ask(Question("reading", self.action(rule), rule, first, self.now, labels, readings))
        for wish in self.reading.triage.wishes[1:]:
            self.add_to_queue(wish)
        self.count_miss()

    def confirmed(self, question: Question) -> None:
        """Do what the open question asked about, if the message is a clear yes to it.

        The model alone cannot confirm anything: the words of the message must do so
        too.
        """
        wishes, asked = self.reading.triage.wishes, question.wish
        same = [wish for wish in wishes if question.kind == "yes" and wish.intent == asked.intent]
        # "yes, but made out to my company": the changed wish has to be confirmed
        changed = any(self.changes(asked, wish) for wish in same)
        yes = Yes(self.reading, question, self.facts, self.handbook.lexicon)
        clear = question.kind in ("yes", "human") and yes.is_clear and not changed
        part = question.kind == "yes" and yes.about and yes.about != asked.orders
        if part and not changed and (clear or len(same) == len(wishes)):
            self._answer_part(question, yes.about, agreed=clear and yes.is_whole)
        elif not clear and wishes:
            self.run_wishes(wishes)
            return
        elif not clear or not yes.is_whole:
            self.repeat_question()
            return
        else:
            self.close_question()
            human = question.kind == "human"
            self._run(Wish("human_agent")) if human else self._carry_out(question, asked.orders)
        # "yes, and 160001 as well": the further order has not been asked about yet.
        new = [
            replace(wish, orders=more)
            for wish in same
            if (more := tuple(o for o in wish.orders if o not in asked.orders))
        ]
        rest = [wish for wish in wishes if wish not in same]
        if question.kind == "human":  # "yes, get me a human" is one wish, not two
            rest = [wish for wish in rest if wish.intent != "human_agent"]
        self.run_wishes([*new, *rest])

    def _answer_part(self, question: Question, orders: Sequence[str], agreed: bool) -> None:
        """Treat the orders that a yes names apart, and ask about the question's others later.

        "Yes, 160001" means that order. "Yes, all but 160001" names the same order and
        means the others: then the desk asks about the named ones alone.
        """
        left = tuple(order for order in question.wish.orders if order not in orders)
        self.close_question()
        self.add_to_queue(replace(question.wish, orders=left))
        if agreed:
            self._carry_out(question, orders)
        else:
            self._decide(question.wish, self.views(orders))

    def _carry_out(self, question: Question, orders: Sequence[str]) -> None:
        """Do what the open question asked about some of its orders.

        The yes does not count for an order that has changed since the question, or if
        the question is too old, or if the rules would now ask something else. The rules
        then decide on the order as on a new wish.
        """
        seen = question.facts.get("orders", ())
        valid = timedelta(hours=self.handbook.values.windows["yes_hours"])
        too_old = self.now - question.asked_at > valid
        agreed: list[OrderView] = []
        changed: list[OrderView] = []
        for order in self.views(orders):
            same_rule = decide(self.case(question.wish, order)).rule == question.rule
            as_asked = isinstance(seen, tuple) and order in seen
            (agreed if same_rule and as_asked and not too_old else changed).append(order)
        if agreed:
            self._decide(question.wish, agreed, agreed=True)
        if changed:
            self._decide(question.wish, changed)

    def denied(self, question: Question) -> None:
        """Drop what the open question asked about, and run the other wishes."""
        self.close_question()
        # The wish in "no, don't cancel it" only repeats the question.
        wishes = [
            wish
            for wish in self.reading.triage.wishes
            if not self._repeats(wish, question) or self.changes(question.wish, wish)
        ]
        if not wishes:
            orders, deed = self.views(question.wish.orders), Label("deed", question.wish.intent)
            told = orders and question.kind != "human"
            facts: dict[str, Fact] = {"orders": orders, "deed": deed} if told else {}
            self.decisions.append(Decision(question.wish.intent, None, "pending.dropped", facts))
        self.run_wishes(wishes)

    def _repeats(self, wish: Wish, question: Question) -> bool:
        """Return whether a wish beside a no only repeats what the question asked.

        The offer of a human and the choice between two wishes ask about no deed: a wish
        beside a no to them is what the customer wants instead.
        """
        if question.kind == "reading":
            return False
        asked = Wish("human_agent") if question.kind == "human" else question.wish
        return wish.intent == asked.intent and set(wish.orders) <= set(asked.orders)

    def corrected(self) -> None:
        """Run the wish of the open question, or else the last wish, as corrected."""
        base = self.before.question.wish if self.before.question else self.before.last
        wishes = self.reading.triage.wishes
        if base is None and not wishes:
            self.add_decision("other.small_talk", "other")
        elif base is None or (wishes and wishes[0].intent not in (base.intent, "other")):
            self.run_wishes(wishes)  # the correction is another wish
        elif wishes:
            slots = dict(base.slots) | dict(wishes[0].slots)
            first = Wish(base.intent, wishes[0].orders or base.orders, slots)
            self.state = replace(self.state, question=None)
            self.run_wishes([first, *wishes[1:]])
        elif not self.handbook.wishes[base.intent].needs_order:
            self.add_decision("other.small_talk", "other")
        else:
            # "no, the other one" names no order: choose among those not meant before.
            meant = base.orders or self.state.focus
            fitting = [o for o in self.candidates(base.intent) if o.id not in meant]
            others = [o for o in self.facts.orders if o.id not in meant]
            self._decide_or_ask_which(base, fitting or others or self.facts.orders)

    def run_wishes(self, wishes: Iterable[Wish]) -> None:
        """Run the wishes of a message one after the other.

        Once a wish has led to a question, further wishes that would also ask something
        wait in the queue, because a reply ends with at most one question.
        """
        waiting = list(wishes)
        if not waiting and not self.decisions:
            self.add_decision("other.small_talk", "other")
        real = [wish for wish in waiting if wish.intent != "other" or wish.orders]
        # "cancel it, thanks": the thanks get no decision next to another wish
        for wish in real or (waiting if not self.decisions else []):
            self._run_with_question(wish)

    def outcome(self) -> Outcome:
        """Return the decisions and the new state.

        Waiting wishes run first, as long as no question is open. Then the desk repeats
        the open question if the message did not answer it. If no question is open, it
        repeats the one that was interrupted.
        """
        while self.state.queue and not self.state.question:
            wish, *rest = self.state.queue
            self.state = replace(self.state, queue=tuple(rest))
            self._run(wish)
        if self.state.question and self.state.question is self.before.question and not self.again:
            # A message with a wish is no miss: the customer may answer afterwards.
            missed = all(d.rule == "other.small_talk" for d in self.decisions)
            self.repeat_question(missed)
        elif self.state.behind and not self.state.question:
            question = self.state.behind
            self.state = replace(self.state, question=question, behind=None)
            self.repeat_question(missed=False)
        return Outcome(tuple(self.decisions), self.state, self.again)

    # -- a wish and its orders

    def _run_with_question(self, wish: Wish) -> None:
        """Run a wish together with what the open question knows about it.

        A wish with the same intent gets the orders and slots of the question.
        """
        question = self.state.question
        about_orders = question and self.handbook.wishes[question.wish.intent].needs_order
        if question and about_orders and wish.intent == "other" and wish.orders:
            # A number without a wish is an answer to the question.
            wish = replace(wish, intent=question.wish.intent)
        if question is None or wish.intent != question.wish.intent or self.has_asked():
            self._run(wish)
            return
        asked, new = question.wish, [o for o in wish.orders if o not in question.wish.orders]
        if question.kind == "yes" and new and asked.orders:  # "and 160001 as well"
            if wish.slots or asked.slots:
                # Details of one order do not hold for the other: ask separately.
                self.add_to_queue(asked)
                self._run(wish)
            else:
                self._run(replace(wish, orders=(*asked.orders, *new)))
            return
        left = tuple(o for o in asked.orders if o not in wish.orders)
        if question.kind == "detail" and wish.orders and left:
            # The detail is for some of the orders only: ask about the others later.
            self.add_to_queue(replace(asked, orders=left))
        if question.kind == "yes" and wish in self.reading.triage.wishes:
            # "I do want to return it" after "Take the return back?": no longer an undo.
            flags = self.handbook.wishes[asked.intent].slots
            kept = {n: v for n, v in asked.slots.items() if not flags[n].flag or n in wish.slots}
            asked = replace(asked, slots=kept)
        self._run(_merged(asked, wish))

    def _run(self, wish: Wish) -> None:
        """Decide on the orders of a wish, or ask which order is meant."""
        kind = self.handbook.wishes[wish.intent]
        orders = self.own_orders(wish.orders)
        self.drop_from_queue(wish.intent, orders)
        unknown = [number for number in wish.orders if number not in orders]
        if unknown and (kind.needs_order or wish.intent == "other"):
            self._report_unknown(wish, unknown, asks=not orders and not self.has_asked())
            if not orders:
                return
        about = self.views(orders or (self.state.focus if kind.needs_order else ()))
        if wish.intent == "order_status" and wish.slots.get("list"):
            self._decide(wish, [None])
        elif about:
            self._decide(wish, about if kind.each_order else about[:1])
        elif not kind.needs_order:
            self._decide(wish, [None])
        else:
            self._decide_or_ask_which(wish, self.candidates(wish.intent))

    def _decide_or_ask_which(self, wish: Wish, candidates: Sequence[OrderView]) -> None:
        """Decide on the only candidate, or ask which of several orders is meant."""
        if len(candidates) == 1:
            self._decide(wish, candidates)
            return
        if self.has_asked():
            self.add_to_queue(wish)
            return
        question = self._order_question(wish, candidates)
        decision = Decision(wish.intent, None, question.rule, question.facts, asks=True)
        self.decisions.append(decision)
        self.ask_order(question)

    def _report_unknown(self, wish: Wish, numbers: Sequence[str], asks: bool) -> None:
        """Report order numbers that are not the customer's.

        An order of another customer gets the same answer as one that does not exist, so
        the answer does not reveal it. asks: also ask which order is meant.
        """
        for number in numbers:
            facts: dict[str, Fact] = {"order": number}
            self.decisions.append(
                Decision(wish.intent, number, "order.not_found", facts, asks=asks)
            )
        if asks:
            self.ask_order(self._order_question(wish, self.candidates(wish.intent)))

    def _order_question(self, wish: Wish, candidates: Sequence[OrderView]) -> Question:
        """Return the question which order is meant."""
        rule = "order.which" if candidates else "order.ask"
        facts: dict[str, Fact] = {"deed": Label("deed", wish.intent)}
        if candidates:
            facts["options"] = tuple(candidates[:MAX_CANDIDATES])
        return Question("order", self.action(rule), rule, replace(wish, orders=()), self.now, facts)

    def _decide(self, wish: Wish, orders: Sequence[OrderView | None], agreed: bool = False) -> None:
        """Decide on each order, and ask one question about those that need an answer.

        agreed: the customer has said yes to what the rules asked about these orders.
        """
        asked: dict[str, list[Decision]] = {}
        waiting: list[str] = []
        for order in orders:
            decision = decide(self.case(wish, order, agreed))
            if decision.asks and order and self.has_asked():
                waiting.append(order.id)
                continue
            self.decisions.append(decision)
            if decision.write:  # the next decisions must see its effect
                self.facts = foreseen(self.facts, decision.write, self.now)
            if decision.asks:
                asked.setdefault(decision.rule, []).append(decision)
        if waiting:
            self._let_wait(replace(wish, orders=tuple(waiting)))
        ids = tuple(order.id for order in orders if order and order.id not in waiting)
        if waiting and not ids:
            return  # the talk is not about them yet
        last = replace(wish, orders=ids)
        self.state = replace(self.state, focus=ids or self.state.focus, last=last)
        if not asked:
            self.close_if_answered(last)
        elif wish.intent != "shop_question" or not self.state.question:
            # For a shop question without an answer the desk offers a human, but not in
            # place of a question that is open.
            self.ask_about(wish, asked)

    def _let_wait(self, wish: Wish) -> None:
        """Let a wish wait, because this message has led to a question before.

        What the question itself is about has been said twice, and is asked only once.
        """
        question = self.state.question
        asked = question.wish.orders if question and question.wish.intent == wish.intent else ()
        if left := tuple(order for order in wish.orders if order not in asked):
            self.add_to_queue(replace(wish, orders=left))


def _merged(base: Wish, new: Wish) -> Wish:
    """Return a wish completed by the orders and slots of an earlier one.

    If it names orders that the earlier wish does not have, it is a new wish and stays
    as it is.
    """
    if new.orders and base.orders and not set(new.orders) <= set(base.orders):
        return new
    return Wish(base.intent, new.orders or base.orders, dict(base.slots) | dict(new.slots))
