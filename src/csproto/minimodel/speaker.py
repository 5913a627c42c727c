"""Customers' messages with their labels.

An entry of a list, its blanks filled from the customer's own orders.

A label is what an honest reader who sees the order list would write.
"""

import random
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from csproto.desk.handbook import Handbook
from csproto.desk.transcript import clean
from csproto.desk.triage import Act, Triage, Wish
from csproto.minimodel.customers import MemoryShop
from csproto.minimodel.lists import BLANK, Line, Segment, articles, entries, phrases
from csproto.minimodel.noise import dress, roughen
from csproto.minimodel.pointing import Filled, Pointing, names_of, stands, typed

CAUSES = ("change_of_mind", "size", "quality", "wrong_item", "missing_part", "damaged", "other")
COPIED = {
    "recipient": "recipient",
    "new_phone": "phone",
    "address": "address",
    "title": "title",
    "tax_id": "tax_id",
}
COLOUR = {"date": "dates", "city": "cities", "name": "names", "money": "", "phone": ""}
POINTERS = ("order", "order2", "item", "item2", "ref", "tail", "head")
BLANKS = {*CAUSES, *COPIED, *COLOUR, *POINTERS, "reason", "amount", "thing"}
PLAIN_REASONS = {
    "cancel_order": "reasons_cancel",
    "complaint": "reasons_complaint",
    "payment_issue": "reasons_payment",
}
LISTABLE = ("order", "item")  # blanks that may name several orders
PAIRED = 0.13  # share of messages with one such blank in which it does
BETWEEN = {  # what stands between orders, and before the last one
    "zh": [
        ("、", "和"),
        ("、", "和"),
        (",", "还有"),
        (" ", " "),
        ("，", "跟"),
        ("、", "、"),
        ("和", "和"),
    ],
    "en": [
        (", ", " and "),
        (", ", " and "),
        (", ", ", "),
        (" ", " "),
        (" and ", " and "),
        (", ", " & "),
    ],
}
NAMING = 0.45  # share of wishes that certainly name an order
SHORTER = 0.6  # share of entries that are the shorter of two
LONGEST_SLOT = 120


class Said(NamedTuple):
    """A message with its honest triage.

    claims: what it says about a payment; kind: of small talk.
    """

    text: str
    triage: Triage
    claims: dict[str, Any] = {}
    kind: str = "chat"


class Speaker(Pointing):
    """One customer's way of writing.

    offered: the orders shown in a question that is open, if any.
    fold: the part of the corpus that the messages come from; all of it unless given.
    """

    def __init__(
        self,
        language: str,
        pick: random.Random,
        shop: MemoryShop,
        handbook: Handbook,
        fold: int | None = None,
    ) -> None:
        super().__init__(language, pick, shop)
        self.handbook, self.fold = handbook, fold

    # -- messages

    def wish(self, intent: str, line: Line | None = None) -> Said:
        """A message with one wish."""
        line = line or (
            self._naming(intent) if self.pick.random() < NAMING else self._entry(intent)
        )
        filled = self._fill(line[0], intent)
        text = self._rough(filled)
        if self.pick.random() < 0.06 and intent != "other":  # something before it, as chatters do
            text = (
                self.pick.choice(phrases(self.language, "greetings"))
                + self.pick.choice((" ", ","))
                + text
            )
        return Said(
            clean(text), Triage("ask", (self._wish(intent, filled, line[0]),)), filled.claims
        )

    def answer(self, name: str, intent: str, act: Act = "ask") -> Said:
        """A message from a list beside the intents, such as `give_order`.

        About the wish `intent`.
        """
        line = self._entry(name)
        filled = self._fill(line[0], intent)
        wish = self._wish(intent, filled, line[0])
        bare = act != "ask" and not (wish.orders or wish.slots)
        text = self._rough(filled, dressed=name not in ("confirm", "deny"))
        return Said(clean(text), Triage(act, () if bare else (wish,)))

    def bare(self, name: str, act: Act) -> Said:
        """A yes or no and nothing else."""
        filled = self._fill(self._entry(name)[0], "other")
        return Said(clean(self._rough(filled, dressed=False)), Triage(act))

    def more(self, name: str, act: Act) -> Said:
        """A yes or no with a further wish: `confirm_more`, `deny_more`."""
        head, *rest = self._entry(name)
        said = self._segments(rest)
        text = self._fill(head, "other").text + said.text
        return Said(clean(text), Triage(act, said.triage.wishes), said.claims)

    def several(self) -> Said:
        """A message with two or three wishes."""
        return self._segments(self._entry("several"))

    def chat(self, name: str, kind: str) -> Said:
        """A message in which nothing is wanted. A label of the line is its kind of small talk."""
        line = self._entry(name)
        label = line[0].labels[0] if line[0].labels else ""
        intent = label if name == "hostile" and label else "other"
        kind = label if name in ("other", "aside") and label else kind
        filled = self._fill(line[0], intent)
        text = filled.text if name in ("hostile", "order_card") else self._rough(filled)
        orders = tuple(dict.fromkeys(filled.orders))
        return Said(clean(text), Triage("ask", (Wish(intent, orders),)), kind=kind)

    def loose(self, name: str) -> Said:
        """A yes or no when nothing was asked: only lines too short to name a deed."""
        line = self._entry(name)
        while len(line[0].text) > (6 if self.language == "zh" else 14) or "{" in line[0].text:
            line = self._entry(name)
        return Said(clean(line[0].text), Triage("ask", (Wish("other"),)), kind="fragment")

    def resolved(self, phrase: Segment) -> tuple[str, tuple[str, ...]] | None:
        """A reference phrase with the orders that it means; None if it means none of theirs."""
        filled = Filled()
        text = self._resolved(phrase, filled, set())
        return (text, tuple(filled.orders)) if text and filled.orders else None

    def reference(self) -> tuple[str, tuple[str, ...]] | None:
        """A reference by itself, with the orders that it means; None if it means none of theirs."""
        filled = Filled()
        text = clean(self._reference(filled, set()))
        own = tuple(o for o in filled.orders if self.shop.customer.order(o))
        return (text, own) if own else None

    # -- inside

    def _naming(self, intent: str) -> Line:
        """An entry that names an order in some way; any entry where the list has none."""
        blank = self.pick.choice(("order", "item", "ref"))
        named = entries(self.language, intent, self.fold, blank)
        return self._one_of(named or entries(self.language, intent, self.fold))

    def _entry(self, name: str) -> Line:
        return self._one_of(entries(self.language, name, self.fold))

    def _one_of(self, entries: Sequence[Line]) -> Line:
        """An entry; a shorter one more often, because half of what customers write is short."""
        two = self.pick.choice(entries), self.pick.choice(entries)
        if self.pick.random() >= SHORTER:
            return two[0]
        return min(two, key=lambda line: sum(len(segment.text) for segment in line))

    def _segments(self, line: Sequence[Segment]) -> Said:
        text, wishes = "", []
        claims: dict[str, Any] = {}
        used: set[str] = set()
        for segment in line:
            intent = segment.labels[0] if segment.labels else "other"
            filled = self._fill(Segment(segment.text, segment.labels[1:]), intent, used)
            used |= set(filled.orders)
            claims |= filled.claims
            wishes.append(self._wish(intent, filled, Segment(segment.text, segment.labels[1:])))
            text += filled.text
        return Said(clean(text), Triage("ask", tuple(wishes[:3])), claims)

    def _rough(self, filled: Filled, dressed: bool = True) -> str:
        text = roughen(filled.text, tuple(filled.kept), self.language, self.pick)
        return dress(text, self.language, self.pick) if dressed else text

    def _wish(self, intent: str, filled: Filled, segment: Segment) -> Wish:
        slots = filled.slots | _labelled(segment.labels)
        known = self.handbook.wishes[intent].slots
        slots = {name: slots[name] for name in known if name in slots and not known[name].claim}
        orders = tuple(dict.fromkeys(filled.orders))
        if not orders and self.handbook.wishes[intent].needs_order:
            orders = self._named(filled.text)
        return Wish(intent, orders, slots)

    def _named(self, text: str) -> tuple[str, ...]:
        """The one order whose article the text happens to name."""
        low = text.lower()
        named = [
            order.id
            for order in self.shop.customer.orders
            if any(
                len(a) > 1 and stands(a.lower(), low)
                for a in names_of(self.shop, order, self.language)
            )
        ]
        return tuple(named) if len(named) == 1 else ()

    def _fill(self, segment: Segment, intent: str, used: set[str] | None = None) -> Filled:
        filled, taken = Filled(), set(used or ())
        pointers = [match[1] for match in BLANK.finditer(segment.text) if match[1] in POINTERS]
        paired = len(pointers) == 1 and self.pick.random() < PAIRED

        def fill(match: re.Match[str]) -> str:
            if match[1] not in BLANKS:  # braces that somebody typed
                return match[0]
            value = self._blank(match[1], match[2], intent, filled, taken)
            if paired and match[1] in LISTABLE and filled.main:
                value = self._with_others(match[1], value, filled, taken)
            filled.kept.append(value)
            return value

        filled.text = BLANK.sub(fill, segment.text)
        for label in segment.labels:
            if label.startswith("times="):
                filled.claims["times"] = int(label.removeprefix("times="))
        return filled

    def _blank(
        self, name: str, literal: str | None, intent: str, filled: Filled, taken: set[str]
    ) -> str:
        pick = self.pick
        if name == "order" and filled.main:
            return typed(filled.main.id, pick, own=True)
        if name == "item" and filled.main and (alias := self._alias(filled.main)):
            return alias
        if name == "item" and filled.orders and not filled.main:
            # "the shirt, 999999": the number counts, and it is none of theirs.
            return self.pick.choice(self.pick.choice(articles()).aliases[self.language])
        if name in ("order", "order2"):
            return self._number(filled, taken)
        if name in ("item", "item2"):
            return self._item(filled, taken)
        if name == "ref":
            return self._reference(filled, taken)
        if name in CAUSES or name == "reason":
            return self._reason(name, literal, intent, filled)
        if name in COPIED:
            value = self._copied(name, literal)
            filled.slots.setdefault(COPIED[name], clean(value)[:LONGEST_SLOT])
            return value
        if name == "amount":
            value = literal or self._money()
            filled.claims.setdefault("amount", value)
            return value
        if name == "thing":
            return pick.choice(pick.choice(articles()).aliases[self.language])
        return literal or self._colour(name)

    def _with_others(self, name: str, value: str, filled: Filled, taken: set[str]) -> str:
        """A reference to an order, with one or two more orders named beside it."""
        values = [value]
        for _ in range(2 if self.pick.random() < 0.15 else 1):
            if not self._order(taken) or self.pick.random() < 0.02:
                break
            listed = self._number if name == "order" or self.pick.random() < 0.1 else self._item
            values.append(listed(filled, taken))
        *most, last = values
        if not most:
            return value
        between, final = self.pick.choice(BETWEEN[self.language])
        return between.join(most) + final + last

    # -- other blanks

    def _reason(self, name: str, literal: str | None, intent: str, filled: Filled) -> str:
        pick = self.pick
        if intent != "return_exchange":
            source = PLAIN_REASONS.get(intent, "reasons_cancel")
            return (
                literal
                if literal and pick.random() < 0.6
                else pick.choice(phrases(self.language, source))
            )
        cause = pick.choice(CAUSES) if name == "reason" else name
        fresh = not literal or pick.random() < 0.45
        text = pick.choice(phrases(self.language, f"reasons_{cause}")) if fresh else str(literal)
        filled.slots.setdefault("cause", cause)
        filled.slots.setdefault("reason", clean(text)[:LONGEST_SLOT])
        return text

    def _copied(self, name: str, literal: str | None) -> str:
        pick = self.pick
        if literal and pick.random() < 0.4:
            return _vary_digits(literal, pick)
        match name:
            case "recipient":
                return (
                    literal
                    if literal and len(literal) > 8
                    else pick.choice(phrases(self.language, "names"))
                )
            case "new_phone":
                return (
                    self._phone()
                    if not literal or len(literal) >= 7
                    else _vary_digits(literal, pick)
                )
            case "address":
                another = not literal or (len(literal) >= 8 and pick.random() < 0.5)
                return _vary_digits(
                    pick.choice(phrases(self.language, "addresses")) if another else str(literal),
                    pick,
                )
            case "title":
                return pick.choice(
                    phrases(self.language, pick.choice(("companies", "companies", "names")))
                )
        letters = pick.choice("ABCDEFGHJKLMNPQRTUWXY")
        return f"91{pick.randrange(10**11, 10**12)}{letters}{pick.randrange(10**3, 10**4)}"[
            : pick.choice((15, 18))
        ]

    def _money(self) -> str:
        pick = self.pick
        return pick.choice(
            (str(pick.randrange(5, 9999)), f"{pick.randrange(5, 999)}.{pick.randrange(100):02d}")
        )

    def _phone(self) -> str:
        pick = self.pick
        if self.language == "zh" or pick.random() < 0.4:
            return f"1{pick.choice('3456789')}{pick.randrange(10**8, 10**9)}"
        country, area = pick.choice((1, 44, 61)), pick.randrange(100, 999)
        return f"+{country} {area} {pick.randrange(1000, 9999)} {pick.randrange(100, 9999)}"

    def _colour(self, name: str) -> str:
        """A value that is no slot."""
        if name == "money":
            return self._money()
        if name == "phone":
            return self._phone()
        return self.pick.choice(phrases(self.language, COLOUR[name]))


def _labelled(labels: Sequence[str]) -> dict[str, Any]:
    """The labels of a line as slots: `remedy=exchange`, `undo`."""
    found: dict[str, Any] = {}
    for label in labels:
        name, equals, value = label.partition("=")
        if name != "times":
            found[name] = value if equals else True
    return found


def _vary_digits(text: str, pick: random.Random) -> str:
    if pick.random() < 0.3:
        return text
    return re.sub(
        r"\d", lambda m: pick.choice("123456789") if m[0] != "0" else pick.choice("0123"), text
    )
