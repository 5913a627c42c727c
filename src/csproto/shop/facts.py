"""What the shop knows of a customer, and the changes that can be asked of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

WriteKind = Literal[
    "return",
    "withdraw",
    "urge",
    "cancel",
    "address",
    "invoice",
    "complaint",
    "handoff",
    "payment",
    "refund_overdue",
    "trace",
    "change",
    "quality",
    "unavailable",
]
NO_TICKET = ("cancel", "address", "invoice", "withdraw")  # writes that open no ticket
# Tickets that go to the front of the queue by their kind, because money is at risk or
# somebody waits for a person. A rule can put any other ticket there (`Write.escalated`).
URGENT: tuple[WriteKind, ...] = ("payment", "handoff", "unavailable", "refund_overdue")


@dataclass(frozen=True)
class OrderView:
    """One order as the policy sees it.

    Times are in UTC. amount: in cents. The other fields have the values of
    `store.Order`.
    """

    id: str
    item: str
    category: str
    status: str
    amount: int
    created_at: datetime
    opened: bool = False
    promised_at: datetime | None = None
    shipped_at: datetime | None = None
    delivered_at: datetime | None = None
    cancelled_at: datetime | None = None
    carrier: str = ""
    tracking_number: str = ""
    payment: str = "ok"
    refund: str = "none"
    refund_at: datetime | None = None
    invoice: str = "none"
    recipient: str = ""
    phone: str = ""
    address: str = ""
    names: str = ""  # what else customers call the article, in any language: a|b|c

    @property
    def reached_at(self) -> datetime:
        """When the order reached its state."""
        moments = {
            "shipped": self.shipped_at,
            "delivered": self.delivered_at,
            "cancelled": self.cancelled_at,
        }
        return moments.get(self.status) or self.created_at


@dataclass(frozen=True)
class CustomerFacts:
    """Everything about a customer on which a decision may depend.

    orders: newest first.
    urged_at: order id to the time of its last urge ticket.
    open_tickets: kind and order id of the tickets that no human has closed yet.
    language: that of the customer's account, `zh` or `en`.
    """

    customer_id: str
    orders: tuple[OrderView, ...]
    joined_at: datetime
    failed_payments: int = 0
    address_matches: bool = True
    urged_at: Mapping[str, datetime] = field(default_factory=dict)
    open_tickets: frozenset[tuple[str, str]] = frozenset()
    language: str = "zh"

    def order(self, order_id: str) -> OrderView | None:
        """Return this customer's order with the id, or None.

        Another customer's order is not found, just like one that does not exist.
        """
        return next((o for o in self.orders if o.id == order_id), None)


@dataclass(frozen=True)
class Write:
    """A change that the order system is asked to make.

    All kinds except those in NO_TICKET open a ticket.

    detail: the text for the ticket.
    escalated: whether the ticket goes to the front of the queue.
    changes: for `address`, the order's fields that get a new value; for `invoice`, its
        `title` and `tax_id`.
    """

    kind: WriteKind
    order_id: str = ""
    detail: str = ""
    escalated: bool = False
    changes: Mapping[str, str] = field(default_factory=dict)


def foreseen(facts: CustomerFacts, write: Write, now: datetime) -> CustomerFacts:
    """Return the facts as they will be once a write is made, for the decisions after it."""
    order = facts.order(write.order_id) if write.order_id else None
    changes: dict[str, Any] = {}
    match write.kind:
        case "cancel":
            changes = {"status": "cancelled", "cancelled_at": now}
            if order and order.status == "paid":
                changes |= {"refund": "approved", "refund_at": now}
        case "return":
            changes = {"refund": "requested", "refund_at": now}
        case "withdraw":
            changes = {"refund": "none", "refund_at": None}
        case "invoice":
            changes = {"invoice": "issued"}
        case "address":
            changes = dict(write.changes)
    orders = tuple(replace(o, **changes) if o is order else o for o in facts.orders)

    tickets = facts.open_tickets
    if write.kind not in NO_TICKET:
        tickets |= {(write.kind, write.order_id)}
    if write.kind == "withdraw":
        tickets -= {("return", write.order_id)}
    urged = facts.urged_at
    if write.kind == "urge":
        urged = {**urged, write.order_id: now}
    return replace(facts, orders=orders, open_tickets=tickets, urged_at=urged)
