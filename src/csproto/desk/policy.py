"""The rules: each function decides one wish, and has the name of its intent.

The functions are pure. They see the order, the slots, the customer's facts and the
present moment. The model takes no part in a decision.

A decision that changes an order asks first, while `case.agreed` is False. Only after
the customer's yes does it have a write. A decision that only opens a ticket has its
write at once: it calls a human, urges a shipment, has a parcel traced or a payment
checked.
"""

from collections.abc import Callable
from datetime import date, timedelta

from csproto.desk.case import Case, Day, Decision, Fact, Facts, Label, Parts
from csproto.desk.handbook import Handbook, HandbookError
from csproto.desk.handbook_check import check_against_shipped
from csproto.desk.risk import risk_score
from csproto.shop.facts import OrderView, Write

FAULTS = ("quality", "damaged", "wrong_item", "missing_part")
NO_FAULTS = ("change_of_mind", "size")


Decide = Callable[[Case], Decision]
_DECIDE: dict[str, Decide] = {}


def wish(function: Decide) -> Decide:
    """Register a function as the rule for the wish with its name."""
    _DECIDE[function.__name__] = function
    return function


def check(handbook: Handbook) -> None:
    """Raise HandbookError for a wish that no function decides, or for a rule that is missing."""
    if missing := handbook.wishes.keys() - _DECIDE.keys():
        raise HandbookError(
            f"No function decides the wish {min(missing)}: add one of that name to policy.py, "
            "with @wish above it."
        )
    check_against_shipped(handbook)


def decide(case: Case) -> Decision:
    """Decide one wish for one order.

    There is a decision for every wish of the handbook. A wish that needs an order must
    come with one.
    """
    return _DECIDE[case.wish.intent](case)


def _required_order(case: Case) -> OrderView:
    """Return the order of a case that must have one. Raises AssertionError."""
    assert case.order is not None, "this wish needs an order"
    return case.order


def _status_label(case: Case) -> Label:
    """Return the order's status as a word for the customer."""
    return Label("status", _required_order(case).status)


# -- returns


@wish
def return_exchange(case: Case) -> Decision:
    order = _required_order(case)
    if case.wish.slots.get("undo"):
        return _withdraw(case)
    if order.status == "cancelled":
        return case.says("return.cancelled")
    if order.refund != "none":
        return case.says("return.already_open", {"state": Label("refund", order.refund)})
    if order.status in ("unpaid", "paid"):
        if case.agreed:
            return _cancel(case)
        return case.says("return.not_shipped", asks=True)
    if order.status == "shipped":
        return case.says("return.in_transit")
    return _return_delivered(case)


def _return_delivered(case: Case) -> Decision:
    """Decide on the return of an order that was delivered, by its age and the cause."""
    order, cause = _required_order(case), case.wish.slots.get("cause")
    delivered = case.day(order.delivered_at or order.created_at)
    days = (case.today - delivered).days
    free, fault = case.window("no_reason_return"), case.window("quality_return")
    until_free, until_fault = delivered + timedelta(days=free), delivered + timedelta(days=fault)
    excluded = order.category in case.handbook.values.not_returnable
    excluded = excluded and (order.category != "digital" or order.opened)
    if cause in FAULTS and days <= fault:
        return _return_asked(case, "return.quality.15d", fault, until_fault)
    if days <= free and not excluded:
        return _return_asked(case, "return.no_reason.7d", free, until_free)
    if days > fault:
        window = fault if excluded else max(free, fault)
        return case.says("return.too_late", {"window": str(window)})
    if cause and cause not in NO_FAULTS:  # a human judges whether this is a fault
        if case.open_ticket("quality"):
            return case.says("return.cause_unclear")
        return case.says("return.cause_unclear", write=case.write("quality"))
    if excluded:
        kind = Label("category", order.category)
        return case.says("return.not_returnable", {"kind": kind, "window": str(fault)})
    return case.says(
        "return.expired.quality_route",
        {"window": str(free), "deadline": Day(until_fault)},
        asks=True,
    )


def _return_asked(case: Case, rule: str, window: int, deadline: date) -> Decision:
    """Ask whether to register the return, or register it after the customer's yes.

    rule: the rule that allows the return.
    window: the days after delivery in which the rule allows it.
    deadline: the last of these days.
    """
    slots = case.wish.slots
    remedy = Label(
        "remedy",
        slots.get("remedy") or case.handbook.wishes["return_exchange"].slots["remedy"].default,
    )
    if not case.agreed:
        return case.says(
            rule, {"window": str(window), "deadline": Day(deadline), "remedy": remedy}, asks=True
        )
    words = [slots.get(name) for name in ("remedy", "cause", "reason")]
    write = case.write("return", "; ".join([word for word in words if word] + [case.text]))
    return case.says(
        "return.registered", {"deadline": Day(deadline), "remedy": remedy}, write=write
    )


def _withdraw(case: Case) -> Decision:
    """Withdraw a return request that nobody has handled yet, after a yes."""
    order = _required_order(case)
    if order.refund in ("approved", "paid"):
        return case.says("withdraw.too_late")
    if order.refund != "requested":
        return case.says("withdraw.none")
    if not case.agreed:
        return case.says("withdraw.confirm", asks=True)
    return case.says("withdraw.done", write=case.write("withdraw"))


@wish
def refund_status(case: Case) -> Decision:
    order = _required_order(case)
    if order.refund == "none" or order.refund_at is None:
        return case.says("refund.none")
    since = case.day(order.refund_at)
    paid_by = since + timedelta(days=case.window("refund_legal"))
    if order.refund == "requested":
        return case.says("refund.requested", {"date": Day(since)})
    if order.refund == "paid":
        return case.says("refund.paid", {"amount": order.amount, "date": Day(since)})
    if case.today > paid_by:
        write = (
            None
            if case.open_ticket("refund_overdue")
            else case.write("refund_overdue", escalated=True)
        )
        return case.says("refund.overdue", {"amount": order.amount}, write=write)
    return case.says("refund.approved", {"amount": order.amount, "deadline": Day(paid_by)})


# -- where an order is


@wish
def order_status(case: Case) -> Decision:
    if case.order is None:
        return (
            case.says("status.list", {"list": case.facts.orders})
            if case.facts.orders
            else case.says("status.none")
        )
    order = case.order
    moments = {
        "paid": order.promised_at,
        "shipped": order.shipped_at,
        "delivered": order.delivered_at,
        "cancelled": order.cancelled_at,
    }
    moment = moments.get(order.status)
    facts: dict[str, Fact] = {"date": Day(case.day(moment))} if moment else {}
    if order.status == "shipped" and order.carrier:
        facts["carrier"] = order.carrier
    return case.says(f"status.{order.status}", facts)


@wish
def tracking_number(case: Case) -> Decision:
    order = _required_order(case)
    if order.status not in ("shipped", "delivered"):
        return case.says("tracking.not_shipped", {"state": _status_label(case)})
    if not (order.carrier and order.tracking_number):
        return case.says("tracking.missing", {"state": _status_label(case)})
    return case.says(
        "tracking.known", {"carrier": order.carrier, "tracking": order.tracking_number}
    )


@wish
def urge_shipment(case: Case) -> Decision:
    order = _required_order(case)
    if order.status == "shipped":
        facts: dict[str, Fact] = {"carrier": order.carrier} if order.carrier else {}
        if order.shipped_at:
            facts["date"] = Day(case.day(order.shipped_at))
        return case.says("urge.shipped", facts)
    if order.status != "paid":
        return case.says("urge.not_applicable", {"state": _status_label(case)})
    last = case.facts.urged_at.get(order.id)
    if last and case.now - last < timedelta(hours=case.window("urge_repeat_hours")):
        return case.says("urge.once_24h")
    if order.promised_at and case.today > case.day(order.promised_at):
        return case.says("urge.overdue", write=case.write("urge", escalated=True))
    promised = {"date": Day(case.day(order.promised_at))} if order.promised_at else {}
    return case.says("urge.paid", promised, write=case.write("urge"))


@wish
def not_received(case: Case) -> Decision:
    order = _required_order(case)
    if order.status in ("unpaid", "paid", "cancelled"):
        return case.says("trace.not_shipped", {"state": _status_label(case)})
    if case.open_ticket("trace"):
        return case.says("trace.open_already")
    late = order.shipped_at and (case.today - case.day(order.shipped_at)).days > case.window(
        "trace_after_days"
    )
    if order.status == "shipped" and not late:
        return case.says("trace.in_transit", {"carrier": order.carrier} if order.carrier else {})
    return case.says("trace.opened", write=case.write("trace"))


# -- changes before shipping


@wish
def change_address(case: Case) -> Decision:
    order = _required_order(case)
    if order.status == "cancelled":
        return case.says("address.cancelled")
    if order.status not in ("unpaid", "paid"):
        return case.says("address.locked", {"state": _status_label(case)})
    given = {
        name: case.wish.slots[name]
        for name in ("recipient", "phone", "address")
        if case.wish.slots.get(name)
    }
    if not given:
        return case.says("address.ask", asks=True)
    before = {"recipient": order.recipient, "phone": order.phone, "address": order.address}
    details = Parts(tuple(filter(None, (before | given).values())))  # keep what is not named
    if not case.agreed:
        return case.says("address.confirm", {"details": details}, asks=True)
    return case.says(
        "address.changed", {"details": details}, write=Write("address", order.id, changes=given)
    )


@wish
def change_order(case: Case) -> Decision:
    order = _required_order(case)
    if order.status == "cancelled":
        return case.says("change.cancelled")
    if order.status not in ("unpaid", "paid"):
        return case.says("change.locked", {"state": _status_label(case)})
    if case.open_ticket("change"):
        return case.says("change.open_already")
    return case.says("change.ticket", write=case.write("change"))


@wish
def cancel_order(case: Case) -> Decision:
    order = _required_order(case)
    if case.wish.slots.get("undo"):
        return case.says(
            "cancel.cannot_undo" if order.status == "cancelled" else "cancel.nothing_to_undo"
        )
    if order.refund == "requested" and order.status == "delivered":
        # Only the return can still be cancelled.
        return _withdraw(case)
    if order.status == "cancelled":
        return case.says("cancel.already")
    if order.status == "delivered":
        return case.says("cancel.delivered")
    if order.status == "shipped":
        return case.says("cancel.locked")
    if case.agreed:
        return _cancel(case)
    return case.says("cancel.confirm", _money_back(order), asks=True)


def _cancel(case: Case) -> Decision:
    """Cancel the order, after the customer's yes."""
    return case.says("cancel.done", _money_back(_required_order(case)), write=case.write("cancel"))


def _money_back(order: OrderView) -> Facts:
    """Return the amount that a cancellation pays back, if anything was paid."""
    return {"amount": order.amount} if order.status == "paid" else {}


# -- money


@wish
def invoice(case: Case) -> Decision:
    order, slots = _required_order(case), case.wish.slots
    if order.invoice == "issued":
        return case.says("invoice.issued")
    if order.status in ("unpaid", "cancelled"):
        return case.says("invoice.not_due", {"state": _status_label(case)})
    if slots.get("tax_id") and not slots.get("title"):
        return case.says("invoice.title", {"tax_id": slots["tax_id"]}, asks=True)
    title = slots.get("title") or Label("personal", "personal")
    facts: dict[str, Fact] = {"amount": order.amount, "title": title}
    if slots.get("tax_id"):
        facts["tax_id"] = slots["tax_id"]
    if not case.agreed:
        return case.says("invoice.confirm", facts, asks=True)
    given = {name: slots[name] for name in ("title", "tax_id") if slots.get(name)}
    return case.says("invoice.done", facts, write=Write("invoice", order.id, changes=given))


@wish
def payment_issue(case: Case) -> Decision:
    score, signs = risk_score(_required_order(case), case.facts, case.now, case.handbook)
    values = case.handbook.values
    if score < values.review_from:
        return case.says("payment.pass", {"state": _status_label(case)})
    if case.open_ticket("payment"):
        return case.says("payment.open_already")
    claims = ", ".join(f"{name} {value}" for name, value in case.wish.slots.items()) or "nothing"
    detail = f"score {score}: {', '.join(signs)}; customer claims: {claims}; message: {case.text}"
    blocked = score >= values.block_from
    write = case.write("payment", detail, escalated=blocked)
    return case.says("payment.block" if blocked else "payment.review", write=write)


# -- people, questions, small talk


@wish
def complaint(case: Case) -> Decision:
    if case.open_ticket("complaint"):
        return case.says("complaint.open_already")
    return case.says("complaint.ticket", write=case.write("complaint"))


@wish
def human_agent(case: Case) -> Decision:
    if any(kind == "handoff" for kind, _ in case.facts.open_tickets):
        return case.says("human.open_already")
    return case.says("human.handoff", write=case.write("handoff", escalated=True))


@wish
def shop_question(case: Case) -> Decision:
    topic = case.wish.slots.get("topic")
    if topic in case.handbook.answers:
        return Decision(
            case.wish.intent, None, "question.answered", {"answer": Label("answer", str(topic))}
        )
    return Decision(case.wish.intent, None, "question.unknown", asks=True)


@wish
def other(case: Case) -> Decision:
    if case.order is None:
        return Decision(case.wish.intent, None, "other.small_talk")
    return case.says("other.order_card", {"state": _status_label(case)})
