"""Decides on a message while the order system is down."""

from dataclasses import replace
from datetime import datetime

from csproto.desk import dialogue
from csproto.desk.case import Decision
from csproto.desk.handbook import Handbook
from csproto.desk.state import Outcome, Question, Reading, State
from csproto.shop.facts import CustomerFacts, Write

NEED_NO_ORDER = ("other", "shop_question")  # wishes answered without orders
DETAIL_CHARS = 500  # of a ticket


def respond(
    reading: Reading, customer_id: str, state: State, now: datetime, handbook: Handbook
) -> Outcome:
    """Decide on one message without the customer's facts.

    Small talk and questions about the shop are answered as usual. Any other message
    becomes a ticket. If a question was open, the ticket names it, and it is asked again.
    """
    understood, question = reading.triage, state.question
    simple = understood.act == "ask" and understood.wishes
    if simple and all(w.intent in NEED_NO_ORDER and not w.orders for w in understood.wishes):
        nothing_known = CustomerFacts(customer_id, (), now)
        outcome = dialogue.respond(reading, nothing_known, State(), now, handbook)
        return replace(outcome, state=_kept(state, outcome.state.question))
    asked = ""
    if question:  # a human could not use a ticket that says only "yes"
        orders = ", ".join(question.wish.orders) or "no order"
        asked = f"answer to {question.action} ({orders}): "
    intent = understood.wishes[0].intent if understood.wishes else None
    decision = ticket(intent, asked + reading.text)
    return Outcome((decision,), state, again=question is not None)


def _kept(state: State, asked: Question | None) -> State:
    """Return the state as it was before, behind what this message has asked, if anything."""
    if asked is None or state.question is None:
        return replace(state, question=state.question or asked)
    older = (state.behind.wish,) if state.behind else ()
    queue = (*state.queue, *older)
    return replace(state, question=asked, behind=state.question, queue=queue)


def ticket(intent: str | None, detail: str) -> Decision:
    """Return the decision to leave a ticket, because the order system is down."""
    write = Write("unavailable", "", detail[:DETAIL_CHARS], escalated=True)
    return Decision(intent, None, "system.unavailable", write=write)
