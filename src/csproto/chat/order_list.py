"""The customer's orders as the chat shows them, each with the wishes that fit it."""

from collections.abc import Mapping
from typing import Any, get_args

from csproto.desk.assistant import Assistant
from csproto.desk.handbook import Handbook, Language, WishFile
from csproto.shop.facts import CustomerFacts, OrderView


def order_list(assistant: Assistant, customer_id: str) -> list[dict[str, Any]]:
    """Return a customer's orders, newest first.

    Raises CustomerUnknown and OrderSystemDown.
    """
    facts = assistant.orders.facts(customer_id)
    return [_row(order, facts, assistant.handbook) for order in facts.orders]


def _row(order: OrderView, facts: CustomerFacts, handbook: Handbook) -> dict[str, Any]:
    """Return one order.

    day: when the order reached its state. open: the kinds of its open tickets. wishes:
    messages that the customer may want to send about it, the likeliest first.
    """
    return {
        "id": order.id,
        "item": order.item,
        "status": order.status,
        "refund": "" if order.refund == "none" else order.refund,
        "day": order.reached_at.astimezone(handbook.values.zone).date().isoformat(),
        "amount": f"¥{order.amount / 100:.2f}",
        "open": sorted(kind for kind, number in facts.open_tickets if number == order.id),
        "wishes": [
            {"intent": wish.intent, "text": _filled(wish.suggestion, order)}
            for wish in _fitting(order, handbook)
        ],
    }


def _fitting(order: OrderView, handbook: Handbook) -> list[WishFile]:
    """Return the wishes that make sense for an order.

    A wish about the refund comes first, then the wishes that fit the fewest states.
    """
    fitting = [w for w in handbook.wishes.values() if w.suggestion and w.suits(order)]
    return sorted(fitting, key=lambda w: ("refund" not in w.fits, len(w.fits.get("status", ()))))


def _filled(suggestion: Mapping[Language, str], order: OrderView) -> dict[Language, str]:
    words = {"order": order.id, "item": order.item}
    return {language: suggestion[language].format(**words) for language in get_args(Language)}
