"""The triage: what a customer wants, as a JSON object that the model writes.

The object is `{"act": ..., "wishes": [{"intent": ..., "orders": [...], slots}]}`, and a
field with its default value is left out. The model writes it under a grammar, so it
cannot write anything else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from csproto.desk.handbook import Handbook, WishFile
from csproto.desk.lexicon import is_bare_yes
from csproto.desk.references import copies, foreign_numbers
from csproto.engine.grammar import SAFE_TEXT, SPAN_CHARACTERS, listed, span_rules, terminal

Act = Literal["ask", "confirm", "deny", "correct"]
MOST_WISHES = 3
QUOTE = terminal('"')
WISHES, ORDERS = '"wishes":[', ',"orders":['


@dataclass(frozen=True)
class Wish:
    """One thing that the customer wants.

    orders: the ids of the orders that it names, in canonical form. slots: its details.
    """

    intent: str
    orders: tuple[str, ...] = ()
    slots: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form, including the fields with default values."""
        return {"intent": self.intent, "orders": list(self.orders)} | self.slots


@dataclass(frozen=True)
class Triage:
    """What the model understood of a message.

    act: `confirm` and `deny` answer the open question, `correct` changes something said
    before, and any other message is an `ask`.
    """

    act: Act = "ask"
    wishes: tuple[Wish, ...] = ()

    def to_wire(self) -> str:
        """Return the compact JSON that the model writes for this triage."""
        wire: dict[str, Any] = {} if self.act == "ask" else {"act": self.act}
        if self.wishes:
            wire["wishes"] = [_without_defaults(wish) for wish in self.wishes]
        return json.dumps(wire, ensure_ascii=False, separators=(",", ":"))

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form, including the fields with default values."""
        return {"act": self.act, "wishes": [wish.as_dict() for wish in self.wishes]}


def _without_defaults(wish: Wish) -> dict[str, Any]:
    orders = {"orders": list(wish.orders)} if wish.orders else {}
    return {"intent": wish.intent} | orders | wish.slots


def from_wire(raw: str) -> Triage:
    """Parse the JSON that a model wrote. Repeated orders and wishes count once.

    Raises ValueError for text that is not JSON, and AttributeError, KeyError or
    TypeError for JSON of another form. Text written under the grammar raises none of
    them.
    """
    wire = json.loads(raw)
    wishes: list[Wish] = []
    for entry in wire.get("wishes", []):
        intent, orders = entry.pop("intent"), tuple(dict.fromkeys(entry.pop("orders", ())))
        if (wish := Wish(intent, orders, entry)) not in wishes:
            wishes.append(wish)
    return Triage(wire.get("act", "ask"), tuple(wishes))


def grammar(
    handbook: Handbook,
    text: str,
    own_orders: Sequence[str],
    waiting: bool,
    begun: bool,
    intents: Sequence[str] = (),
) -> str:
    """Return the EBNF of all triages that one message can have.

    own_orders: the ids of the customer's orders. The triage can only name these and the
        numbers in the message, and copied slots can only hold text of the message.
    waiting: whether a question is open; only then are `confirm` and `deny` possible. With
        a message that is nothing but a yes, no wish can come along with them.
    begun: whether there was a wish before. `correct` needs one of the two.
    intents: the intents that a wish can have; all of the handbook unless given.
    """
    intents = intents or handbook.intents
    orders = [*own_orders, *foreign_numbers(text, own_orders)]
    numbers = [n for n in copies(text) if SAFE_TEXT.fullmatch(n)]
    acts = (["confirm", "deny"] if waiting else []) + (["correct"] if begun or waiting else [])
    wishes = f"{terminal(WISHES)} {listed('wish', MOST_WISHES)} {terminal(']')}"
    rules = [_root(acts, is_bare_yes(text, handbook.lexicon)), f"wishes ::= {wishes}"]
    rules.append("wish ::= " + " | ".join(f"wish_{intent}" for intent in intents))
    spans = span_rules(text[:SPAN_CHARACTERS])
    for intent in intents:
        wish = handbook.wishes[intent]
        rules.append(f"wish_{intent} ::= {_wish(wish, bool(orders), bool(numbers), bool(spans))}")
    if orders:
        rules.append(f"order ::= {_choice(orders)}")
        named = f"{terminal(ORDERS)} {listed('order', len(orders))} {terminal(']')}"
        rules.append(f"orders ::= {named}")
    if numbers:
        rules.append(f"number ::= {_choice(numbers)}")
    if handbook.answers:
        rules.append(f"topic ::= {_choice(list(handbook.answers))}")
    return "\n".join([*rules, *spans]) + "\n"


def _root(acts: Sequence[str], alone: bool) -> str:
    """Return the root rule: wishes, or one of the acts with or without wishes.

    alone: whether an act has no wishes with it.
    """
    starts = [terminal(f'{{"act":"{act}"') for act in acts]
    more = "" if alone else '("," wishes)?'
    ways = ['"{" wishes "}"', *(f'{start} {more} "}}"' for start in starts)]
    return "root ::= " + " | ".join(ways)


def _wish(wish: WishFile, has_orders: bool, has_numbers: bool, has_text: bool) -> str:
    """Return the rule of one wish: its intent, then optional orders and slots."""
    parts = [terminal(f'{{"intent":"{wish.intent}"'), "orders?" if has_orders else ""]
    for name, slot in wish.slots.items():
        if slot.claim:
            continue
        value = ""
        if slot.choices:
            value = "(" + _choice(slot.choices) + ")"
        elif slot.flag:
            value = '"true"'
        elif slot.answers:
            value = "topic"
        elif slot.copied == "number" and has_numbers:
            value = "number"
        elif slot.copied == "text" and has_text:
            value = f"{QUOTE} span {QUOTE}"
        if value:
            parts.append(f"({terminal(_json_key(name))} {value})?")
    return " ".join(filter(None, [*parts, '"}"']))


def _json_key(name: str) -> str:
    return f',"{name}":'


def _choice(words: Sequence[str]) -> str:
    return " | ".join(terminal(f'"{word}"') for word in words)


def claims_grammar(wish: WishFile, text: str) -> str:
    """Return the EBNF of what a message claims about a payment.

    It is an object with every slot that is marked `claim`. A copied slot holds a number
    of the message, or an empty text if nothing is claimed. Any other slot holds one
    digit, which is 0 if nothing is claimed.
    """
    numbers = ["", *(n for n in copies(text) if SAFE_TEXT.fullmatch(n))]
    claims = {name: slot for name, slot in wish.slots.items() if slot.claim}
    values = {
        name: f"({_choice(numbers)})" if slot.copied else "[0-9]" for name, slot in claims.items()
    }
    pairs = [f"{terminal(_json_key(name)[1:])} {value}" for name, value in values.items()]
    return "root ::= " + " ".join([terminal("{"), ' "," '.join(pairs), terminal("}")]) + "\n"


def claims_from_wire(raw: str) -> dict[str, Any]:
    """Parse the claims that a model wrote, without the empty ones.

    Raises ValueError for text that is not JSON.
    """
    return {name: value for name, value in json.loads(raw).items() if value}
