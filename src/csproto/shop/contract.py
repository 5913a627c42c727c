"""What an order system must keep for the assistant to be safe on it: to be run over your own before customers meet it."""

from collections.abc import Callable, Iterator
from datetime import datetime

from csproto.errors import CsprotoError
from csproto.shop.orders import CustomerFacts, CustomerUnknown, OrderApi, OrderMoved, Write

RULE = "cancel.done"  # why the writes here are made, for their audit rows


def broken_promises(
    orders: OrderApi, customer_id: str, order_id: str, stranger_id: str, now: datetime, run: str = "contract"
) -> list[str]:
    """What the order system does not keep; empty when it keeps all.

    order_id: a paid order of the customer's that has not shipped. It is cancelled, and a complaint is filed: use a scratch database. stranger_id: another
    customer. run: names this run in the keys of its writes, so that a second one is not taken for a repetition.
    """
    facts = orders.facts(customer_id)
    checks = _reading(orders, facts, order_id, stranger_id)
    broken = [promise for promise, kept in checks if not kept]
    if facts.order(order_id) is None:  # nothing further can be asked about an order that is not found
        return broken
    return broken + [
        promise for promise, kept in _writing(orders, customer_id, order_id, stranger_id, now, run) if not kept
    ]


def _reading(orders: OrderApi, facts: CustomerFacts, order_id: str, stranger_id: str) -> Iterator[tuple[str, bool]]:
    created = [order.created_at for order in facts.orders]
    yield "a customer nobody knows is CustomerUnknown", _raises(CustomerUnknown, lambda: orders.known("nobody"))
    yield "the customer's order is found", facts.order(order_id) is not None
    yield "nobody else finds it", orders.facts(stranger_id).order(order_id) is None
    yield "orders come newest first", created == sorted(created, reverse=True)
    yield "moments carry their time zone", all(moment.tzinfo for moment in created)
    yield "amounts are whole cents", all(isinstance(order.amount, int) for order in facts.orders)


def _writing(
    orders: OrderApi, customer_id: str, order_id: str, stranger_id: str, now: datetime, run: str
) -> Iterator[tuple[str, bool]]:
    cancel, complaint = Write("cancel", order_id), Write("complaint", order_id, "contract check")

    def write(key: str, who: str, what: Write) -> int:
        return orders.write(f"{run}:{key}", who, what, now, RULE)

    refused = _raises(Exception, lambda: write("stranger", stranger_id, cancel))
    yield "a stranger cannot cancel it", refused and not _cancelled(orders, customer_id, order_id)
    first, again = write("complaint", customer_id, complaint), write("complaint", customer_id, complaint)
    yield "a key used twice opens one ticket", 0 < first == again
    done = not _raises(Exception, lambda: write("cancel", customer_id, cancel))
    yield "an order that is paid and not sent can be cancelled", done
    yield "a cancellation is seen by the next look", _cancelled(orders, customer_id, order_id)
    yield "the same key again does no harm", not _raises(Exception, lambda: write("cancel", customer_id, cancel))
    moved = _raises(OrderMoved, lambda: write("late", customer_id, cancel))
    yield "a write that comes too late is OrderMoved", moved


def _cancelled(orders: OrderApi, customer_id: str, order_id: str) -> bool:
    order = orders.facts(customer_id).order(order_id)
    return order is not None and order.status == "cancelled"


def _raises(kind: type[Exception], call: Callable[[], object]) -> bool:
    try:
        call()
    except kind:
        return True
    except CsprotoError:
        return False
    return False
