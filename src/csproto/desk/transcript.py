"""The messages of a conversation in the form in which a model reads them.

Messages are appended and not changed, so each call finds everything before in the server's
prefix cache. Only a transcript that is too long is cut, at its beginning.
"""

import hashlib
import json
import re
import secrets
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from csproto.desk.references import Named, matches
from csproto.shop.facts import OrderView

Role = Literal["system", "user", "assistant"]
NONCE_DIGITS = 15
ORDERS_SHOWN = 12  # the newest ones; an older order must be named by its number

# The marks of a chat template: `<|im_end|>` and `[/INST]` match, `<- im_end` does not.
TEMPLATE_MARK = re.compile(
    r"<\|[^<>|]{1,40}\|>|<(?:start|end)_of_turn>|</?s>|\[/?INST\]|<</?SYS>>", re.I
)


class Message(NamedTuple):
    """One message of the chat template.

    role: `user` is the customer and `assistant` the model or the desk; `system`
    messages have the prompt, the orders and the decisions.
    """

    role: Role
    content: str


def clean(text: str) -> str:
    """Return a customer's text without anything that could break the transcript.

    - Full-width letters and digits become plain ones (NFKC).
    - Line breaks and tabs become spaces; control and bidirectional characters are
      dropped.
    - From the first mark of a chat template on, the text is dropped: only an attempt to
      imitate other messages has such a mark.
    - A mark in a text that begins with one, and any other `<|`, gets a space after `<`.
    """
    text = unicodedata.normalize("NFKC", text)
    text = "".join(
        c if unicodedata.category(c)[0] != "C" or c == "\u200d" else _gap(c) for c in text
    )
    text = TEMPLATE_MARK.split(text)[0].strip() or text
    text = TEMPLATE_MARK.sub(lambda mark: f"< {mark[0][1:]}", text)
    return " ".join(re.sub(r"<(?=\|)", "< ", text).split())


def _gap(character: str) -> str:
    """Return a space for a line break or tab, nothing for other control characters."""
    return " " if character in "\n\r\t" else ""


def opening(orders: Sequence[OrderView], zone: ZoneInfo, nonce: str | None = None) -> Message:
    """Return the first message of a transcript: a nonce and the customer's orders.

    nonce: random unless given. The server's prefix cache finds the text after the nonce
    only for a prompt with the same nonce. No customer can therefore test by response
    times what another one has written. The prompt comes before the nonce and is cached
    for all customers.
    """
    nonce = nonce or f"{secrets.randbelow(10**NONCE_DIGITS):0{NONCE_DIGITS}}"
    listed = [
        {"n": place} | order_line(order, zone)
        for place, order in enumerate(orders[:ORDERS_SHOWN], start=1)
    ]
    return Message("system", to_json({"nonce": nonce, "orders": listed}))


def routing_key(messages: Sequence[Message]) -> str:
    """Return a text that all calls of one transcript share, and no other's; "" without nonce.

    It says nothing of the nonce, which must stay secret.
    """
    for message in reversed(messages):
        if message.role == "system" and message.content.startswith('{"nonce":'):
            return hashlib.sha256(message.content.encode()).hexdigest()[:16]
    return ""


def changes(before: Iterable[OrderView], now: Iterable[OrderView], zone: ZoneInfo) -> list[Message]:
    """Return the message with the orders that are new or have changed, in a list.

    before: the orders as the transcript last told them. now: the orders as they are.
    The list is empty if nothing has changed.
    """
    known = {order.id: order_line(order, zone) for order in before}
    listed = [shown for order in now if (shown := order_line(order, zone)) != known.get(order.id)]
    return [Message("system", to_json({"orders": listed}))] if listed else []


def hints(text: str, orders: Sequence[Named], guess: Mapping[str, int]) -> list[Message]:
    """Return the message that goes before the customer's next message, in a list.

    guess: intents that the message may have, with percentages (see `FirstGuess`).

    The message has the guess, and what the customer's message shares with the orders.
    The list is empty if there is neither.
    """
    listed = [{"id": number, "by": shared} for number, shared in matches(text, orders)]
    told = ({"guess": guess} if guess else {}) | ({"matches": listed} if listed else {})
    return [Message("system", to_json(told))] if told else []


def order_line(order: OrderView, zone: ZoneInfo) -> dict[str, str]:
    """Return what the model sees of an order: number, article, state and day (MM-DD).

    The day is when the order reached its state.
    """
    state = (
        order.status if order.refund in ("none", "") else f"{order.status}, refund {order.refund}"
    )
    item, day = clean(order.item), order.reached_at.astimezone(zone)
    return {"id": order.id, "item": item, "state": state, "day": f"{day:%m-%d}"}


def decided(decisions: Iterable[tuple[str, str | None]]) -> Message:
    """Return the message that tells the model the action and order of each decision."""
    listed = [
        {"action": action} | ({"order": order} if order else {}) for action, order in decisions
    ]
    return Message("system", to_json(listed))


def to_json(value: Any) -> str:
    """Return compact JSON, the form that the model reads and writes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
