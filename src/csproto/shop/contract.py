"""What the desk relies on in an order system.

Run `broken_promises` on an order system of your own before customers meet it.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Protocol

from csproto.errors import CsprotoError
from csproto.shop.facts import CustomerFacts, Write
from csproto.shop.orders import CustomerUnknown, OrderMoved

RULE = "contract"  # the rule in the audit rows of these writes
Promise = tuple[str, bool]  # what is promised, and whether it is kept


class OrderSystem(Protocol):
    """What the desk needs of a shop's orders. Every call names the signed-in customer."""

    def facts(self, customer_id: str) -> CustomerFacts:
        """Return what is known about a customer. Raises OrderSystemDown and CustomerUnknown."""

    def write(self, key: str, customer_id: str, write: Write, now: datetime, why: str) -> int:
        """Make one change, and return the number of its ticket, or 0 if it has none.

        key: a key that was used before changes nothing.
        why: the rule that asked for the change.

        Raises OrderSystemDown, OrderMoved and CustomerUnknown.
        """

    def leave_ticket(self, key: str, customer_id: str, summary: str, now: datetime) -> int:
        """Leave a wish that could not be served to a human. Returns the ticket's number."""


def broken_promises(
    orders: OrderSystem,
    customer_id: str,
    order_id: str,
    stranger_id: str,
    now: datetime,
) -> list[str]:
    """Return the promises that an order system breaks; the list is empty if it keeps all.

    order_id: an order of the customer that is paid and not shipped. It is cancelled,
        and a complaint about it is filed, so use a scratch database. A second run needs
        another order.
    stranger_id: another customer.
    """
    facts = orders.facts(customer_id)
    promises = list(_reading(orders, facts, order_id, stranger_id))
    if facts.order(order_id) is not None:  # without the order there is nothing to write to
        promises += _writing(orders, customer_id, order_id, stranger_id, now)
    return [promise for promise, kept in promises if not kept]


def _reading(
    orders: OrderSystem, facts: CustomerFacts, order_id: str, stranger_id: str
) -> Iterator[Promise]:
    created = [order.created_at for order in facts.orders]
    unknown = _raises(CustomerUnknown, lambda: orders.facts("nobody"))
    yield "an unknown customer is CustomerUnknown", unknown
    yield "the customer's order is found", facts.order(order_id) is not None
    yield "another customer does not find it", orders.facts(stranger_id).order(order_id) is None
    yield "the newest order comes first", created == sorted(created, reverse=True)
    dated = all(order.refund_at for order in facts.orders if order.refund != "none")
    yield "a refund has the day since which it is in its state", dated
    yield "moments have a time zone", all(moment.tzinfo for moment in created)
    yield "amounts are whole cents", all(isinstance(order.amount, int) for order in facts.orders)


def _writing(
    orders: OrderSystem,
    customer_id: str,
    order_id: str,
    stranger_id: str,
    now: datetime,
) -> Iterator[Promise]:
    cancel, complaint = Write("cancel", order_id), Write("complaint", order_id, "contract check")

    def write(key: str, who: str, what: Write) -> int:
        return orders.write(f"contract:{order_id}:{key}", who, what, now, RULE)

    def cancelled() -> bool:
        order = orders.facts(customer_id).order(order_id)
        return order is not None and order.status == "cancelled"

    refused = _raises(Exception, lambda: write("stranger", stranger_id, cancel))
    yield "another customer cannot cancel it", refused and not cancelled()

    ticket = write("complaint", customer_id, complaint)
    again = write("complaint", customer_id, complaint)
    yield "a repeated key opens one ticket", 0 < ticket == again
    yield "a second complaint joins the open one", write("more", customer_id, complaint) == ticket
    opened = orders.facts(customer_id).open_tickets
    yield "the next facts have the open ticket", ("complaint", order_id) in opened

    done = not _raises(Exception, lambda: write("cancel", customer_id, cancel))
    yield "a paid order that is not shipped can be cancelled", done
    yield "the next facts have the cancellation", cancelled()
    repeated = not _raises(Exception, lambda: write("cancel", customer_id, cancel))
    yield "a repeated key of a cancellation is no error", repeated
    late = _raises(OrderMoved, lambda: write("late", customer_id, cancel))
    yield "a write that comes too late is OrderMoved", late


def _raises(kind: type[Exception], call: Callable[[], object]) -> bool:
    """Return whether a call raises this error. Errors that are not ours pass through."""
    try:
        call()
    except kind:
        return True
    except CsprotoError:
        return False
    return False
