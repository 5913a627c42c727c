"""What a customer wants, as one small JSON object that the model writes under a grammar.

`{"act": ..., "wishes": [{"intent": ..., "orders": [...], slots}]}`, with every default left out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from csproto.desk.handbook import Handbook, WishFile
from csproto.desk.references import copies, foreign_numbers
from csproto.grammar import SAFE_TEXT, SPAN_CHARACTERS, span_rules, terminal

Act = Literal["ask", "confirm", "deny", "correct"]
MOST_WISHES = 3
QUOTE = terminal('"')
WISHES, ORDERS = '"wishes":[', ',"orders":['


@dataclass(frozen=True)
class Wish:
    """One thing the customer wants, about some orders (canonical ids), with its slots."""

    intent: str
    orders: tuple[str, ...] = ()
    slots: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form with every key present."""
        return {"intent": self.intent, "orders": list(self.orders)} | self.slots


@dataclass(frozen=True)
class Triage:
    """A message as the model understood it."""

    act: Act = "ask"
    wishes: tuple[Wish, ...] = ()

    def to_wire(self) -> str:
        """The compact JSON that the model writes for this triage."""
        wire: dict[str, Any] = {} if self.act == "ask" else {"act": self.act}
        if self.wishes:
            wire["wishes"] = [_without_defaults(wish) for wish in self.wishes]
        return json.dumps(wire, ensure_ascii=False, separators=(",", ":"))

    def as_dict(self) -> dict[str, Any]:
        """The JSON form with every key present."""
        return {"act": self.act, "wishes": [wish.as_dict() for wish in self.wishes]}


def _without_defaults(wish: Wish) -> dict[str, Any]:
    orders = {"orders": list(wish.orders)} if wish.orders else {}
    return {"intent": wish.intent} | orders | wish.slots


def from_wire(raw: str) -> Triage:
    """The triage in a model's JSON.

    What it says twice counts once. Raises ValueError for other text.
    """
    wire = json.loads(raw)
    wishes: list[Wish] = []
    for entry in wire.get("wishes", []):
        intent, orders = entry.pop("intent"), tuple(dict.fromkeys(entry.pop("orders", ())))
        if (wish := Wish(intent, orders, entry)) not in wishes:
            wishes.append(wish)
    return Triage(wire.get("act", "ask"), tuple(wishes))


def grammar(
    handbook: Handbook, text: str, own_orders: Sequence[str], waiting: bool, begun: bool
) -> str:
    """The EBNF under which the triage of one message is written.

    Orders can only be the customer's own or numbers in the message; copied slots can only hold what
    stands in the message. waiting: a question is open, so `confirm` and `deny` exist. begun: a wish
    was spoken of before, so `correct` exists.
    """
    orders = [*own_orders, *foreign_numbers(text, own_orders)]
    numbers = [n for n in copies(text) if SAFE_TEXT.fullmatch(n)]
    acts = (["confirm", "deny"] if waiting else []) + (["correct"] if begun or waiting else [])
    further = f'("," wish){{0,{MOST_WISHES - 1}}}'
    rules = [_root(acts), f"wishes ::= {terminal(WISHES)} wish {further} {terminal(']')}"]
    rules.append("wish ::= " + " | ".join(f"wish_{intent}" for intent in handbook.intents))
    spans = span_rules(text[:SPAN_CHARACTERS])
    for intent, wish in handbook.wishes.items():
        rules.append(f"wish_{intent} ::= {_wish(wish, bool(orders), bool(numbers), bool(spans))}")
    if orders:
        rules.append(f"order ::= {_choice(orders)}")
        further = f'("," order){{0,{len(orders) - 1}}}'
        rules.append(f"orders ::= {terminal(ORDERS)} order {further} {terminal(']')}")
    if numbers:
        rules.append(f"number ::= {_choice(numbers)}")
    if handbook.answers:
        rules.append(f"topic ::= {_choice(list(handbook.answers))}")
    return "\n".join([*rules, *spans]) + "\n"


def _root(acts: Sequence[str]) -> str:
    alone = [terminal(f'{{"act":"{act}"') for act in acts]
    ways = ['"{" wishes "}"']
    ways += [f'{start} ("," wishes)? "}}"' for start in alone]
    return "root ::= " + " | ".join(ways)


def _wish(wish: WishFile, has_orders: bool, has_numbers: bool, has_text: bool) -> str:
    """One wish: its intent, then orders and slots, each of which may be left out."""
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
            parts.append(f"({terminal(_key(name))} {value})?")
    return " ".join(filter(None, [*parts, '"}"']))


def _key(name: str) -> str:
    return f',"{name}":'


def _choice(words: Sequence[str]) -> str:
    return " | ".join(terminal(f'"{word}"') for word in words)


def claims_grammar(wish: WishFile, text: str) -> str:
    """The EBNF of what a message claims.

    Every slot marked `claim`, empty or 0 where nothing is claimed.
    """
    numbers = ["", *(n for n in copies(text) if SAFE_TEXT.fullmatch(n))]
    claims = {name: slot for name, slot in wish.slots.items() if slot.claim}
    values = {
        name: f"({_choice(numbers)})" if slot.copied else "[0-9]" for name, slot in claims.items()
    }
    pairs = [f"{terminal(_key(name)[1:])} {value}" for name, value in values.items()]
    return "root ::= " + " ".join([terminal("{"), ' "," '.join(pairs), terminal("}")]) + "\n"


def claims_from_wire(raw: str) -> dict[str, Any]:
    """The claims in a model's JSON, without the empty ones."""
    return {name: value for name, value in json.loads(raw).items() if value}
