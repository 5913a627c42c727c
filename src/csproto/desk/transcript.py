"""The conversation as a model reads it.

Text is only ever appended, so every call reuses the KV cache of the calls before.
"""

import json
import re
import secrets
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from csproto.orders import OrderView

Role = Literal["system", "user", "assistant"]
NONCE_DIGITS = 15
ORDERS_SHOWN = 12  # newest first; older orders are reached by their number

# `<|im_end|>` matches, `<- im_end` does not: a chat template's own marks.
TEMPLATE_MARK = re.compile(r"<\|[a-z_]+\|>|<(?:start|end)_of_turn>", re.I)


class Message(NamedTuple):
    """One message of the chat template.

    `system` brings the prompt, the orders and the decisions.
    """

    role: Role
    content: str


def clean(text: str) -> str:
    """A customer's text made safe to stand in a transcript, on one line.

    Full-width letters and digits become plain ones (NFKC), line ends become spaces, control and
    bidirectional characters are dropped. Nobody types a mark of a chat template to say something:
    what comes after one is dropped with it, and any other `<|` is broken up.
    """
    text = unicodedata.normalize("NFKC", text)
    text = "".join(
        c if unicodedata.category(c)[0] != "C" or c == "\u200d" else _gap(c) for c in text
    )
    text = TEMPLATE_MARK.split(text)[0].strip() or text
    return " ".join(re.sub(r"<(?=\|)", "< ", text).split())


def _gap(character: str) -> str:
    return " " if character in "\n\r\t" else ""


def opening(orders: Sequence[OrderView], zone: ZoneInfo, nonce: str | None = None) -> Message:
    """The message with which a customer's own part begins: their orders, behind a random nonce.

    Whatever follows the nonce can be found in the prefix cache only by who knows it, so no customer
    can probe for another one's text; what stands before it, the prompt, is computed once for all.
    """
    nonce = nonce or f"{secrets.randbelow(10**NONCE_DIGITS):0{NONCE_DIGITS}}"
    listed = [order_line(order, zone) for order in orders[:ORDERS_SHOWN]]
    return Message("system", to_json({"nonce": nonce, "orders": listed}))


def changes(before: Iterable[OrderView], now: Iterable[OrderView], zone: ZoneInfo) -> list[Message]:
    """The message that tells of orders that are not as the transcript has them; none if all are."""
    known = {order.id: order_line(order, zone) for order in before}
    lines = [line for order in now if (line := order_line(order, zone)) != known.get(order.id)]
    return [Message("system", to_json({"orders": lines}))] if lines else []


def order_line(order: OrderView, zone: ZoneInfo) -> dict[str, str]:
    """What the model sees of an order: number, article, state and the day of that state (MM-DD)."""
    moments: dict[str, datetime | None] = {
        "paid": order.created_at,
        "shipped": order.shipped_at,
        "delivered": order.delivered_at,
        "cancelled": order.cancelled_at,
    }
    day = moments.get(order.status) or order.created_at
    state = (
        order.status if order.refund in ("none", "") else f"{order.status}, refund {order.refund}"
    )
    item = clean(order.item)
    return {"id": order.id, "item": item, "state": state, "day": f"{day.astimezone(zone):%m-%d}"}


def decided(decisions: Iterable[tuple[str, str | None]]) -> Message:
    """The message that tells the model what was decided: action and order of each decision."""
    lines = [
        {"action": action} | ({"order": order} if order else {}) for action, order in decisions
    ]
    return Message("system", to_json(lines))


def to_json(value: Any) -> str:
    """Compact JSON, as the model reads and writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
