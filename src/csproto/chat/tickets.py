"""A ticket with the conversations it came from, and what its customer is told about it.

Each write of a conversation has a key that begins with the conversation's number, and its
audit row names the ticket. That is how the two find each other.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto.chat.messages import kept_messages
from csproto.desk.conversation import Conversation, ConversationUnknown, resume
from csproto.desk.handbook import Handbook
from csproto.shop.orders import database_errors_typed
from csproto.shop.store import Audit, Customer, Order, Ticket
from csproto.shop.tickets import as_dict, label

NAMED = "ticket {}"  # the detail of an audit row


def with_conversations(engine: Engine, ticket: Ticket, handbook: Handbook) -> dict[str, Any]:
    """Return a ticket with its customer, its order, and the conversations it came from.

    The newest conversation comes first. One that is not kept any more is missing.

    Raises OrderSystemDown.
    """
    with database_errors_typed(), Session(engine) as session:
        customer = session.get(Customer, ticket.customer_id)
        order = session.get(Order, ticket.order_id) if ticket.order_id else None
        keys = session.scalars(
            select(Audit.key).where(
                Audit.customer_id == ticket.customer_id, Audit.detail == NAMED.format(ticket.id)
            )
        )
        numbers = {key.partition(":")[0] for key in keys}
        found = [c for c in (_kept(engine, n, ticket.customer_id) for n in numbers) if c]
        found.sort(key=lambda conversation: conversation.started_at, reverse=True)
        return as_dict(ticket) | {
            "name": customer.name if customer else "",
            "about": _order(order) if order else None,
            "conversations": [_conversation(each, handbook) for each in found],
        }


def _kept(engine: Engine, number: str, customer_id: str) -> Conversation | None:
    try:
        return resume(engine, number, customer_id)
    except ConversationUnknown:
        return None


def _order(order: Order) -> dict[str, str]:
    """Return what staff may have to know about an order; "" for what there is not."""
    return {
        "item": order.item,
        "state": order.status,
        "amount": f"¥{order.amount / 100:.2f}",
        "payment": order.payment if order.payment != "ok" else "",
        "refund": order.refund if order.refund != "none" else "",
        "recipient": order.recipient,
        "phone": order.phone,
        "address": order.address,
    }


def _conversation(conversation: Conversation, handbook: Handbook) -> dict[str, Any]:
    messages = kept_messages(conversation, handbook)
    return {
        "id": conversation.id,
        "at": conversation.started_at.isoformat(),
        "messages": [{"text": message["text"], "reply": message["reply"]} for message in messages],
    }


def progress(engine: Engine, conversation_id: str, customer_id: str) -> list[dict[str, Any]]:
    """Return the tickets of a conversation as its customer may know them, the oldest first.

    Each has its number, whether it is open, taken or closed, and since when. Nobody of
    the staff is named. Raises OrderSystemDown.
    """
    if not conversation_id:
        return []
    named = select(Audit.detail).where(
        Audit.customer_id == customer_id,
        Audit.key.startswith(f"{conversation_id}:", autoescape=True),
        Audit.detail.startswith(NAMED.format("")),
    )
    with database_errors_typed(), Session(engine) as session:
        numbers = {int(detail.removeprefix(NAMED.format(""))) for detail in session.scalars(named)}
        own = select(Ticket).where(Ticket.customer_id == customer_id, Ticket.id.in_(numbers))
        return [_progress(ticket) for ticket in session.scalars(own.order_by(Ticket.id))]


def _progress(ticket: Ticket) -> dict[str, Any]:
    state, at = "open", ticket.created_at
    if ticket.closed:
        state, at = "closed", ticket.closed_at or ticket.created_at
    elif ticket.taken_at:
        state, at = "taken", ticket.taken_at
    return {"number": label(ticket.id), "kind": ticket.kind, "state": state, "at": at.isoformat()}
