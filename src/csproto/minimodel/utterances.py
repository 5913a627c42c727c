"""Customers' messages with their labels: a seed, its blanks filled, roughened, and the triage an honest reader would write."""

import random
import re
import string
from collections.abc import Callable
from typing import NamedTuple

from csproto.minimodel.noise import dress, roughen
from csproto.minimodel.seeds import seeds
from csproto.transcript import clean
from csproto.triage import Act, Intent, Triage

REASONS = {
    Intent.RETURN_EXCHANGE: "reasons_return",
    Intent.CANCEL_ORDER: "reasons_cancel",
    Intent.COMPLAINT: "reasons_complaint",
    Intent.PAYMENT_ISSUE: "reasons_payment",
}
BLANK = re.compile(r"\{(order|phone|money|date|item|city|name|address|reason)(?::([^{}]*))?\}")


def order_number(pick: random.Random) -> str:
    """An order id in canonical form: 6 to 20 digits, sometimes with letters."""
    length = pick.choice((6, 6, 6, 6, 7, 8, 9, 10, 10, 11, 12, 12, 13, 14, 15, 16, 17, 18, 19, 20))
    digits = "".join(pick.choice(string.digits) for _ in range(length))
    if length == 11 and digits[0] == "1":  # would look like a telephone number
        digits = pick.choice("23456789") + digits[1:]
    chance = pick.random()
    if chance < 0.10:
        return (
            pick.choice(("JD", "SN", "DD", "TB", "PO", "CN", "OR", "XS"))
            + digits[: pick.randrange(6, 15)]
        )
    if chance < 0.17:
        return pick.choice(string.ascii_uppercase) + digits[: pick.randrange(5, 12)]
    if chance < 0.19:
        return digits[:8] + pick.choice(string.ascii_uppercase) + digits[8:11]
    return (
        digits if digits[0] != "0" or pick.random() < 0.1 else pick.choice("123456789") + digits[1:]
    )


def as_typed(order_id: str, pick: random.Random) -> str:
    """An order id as a customer may type it; `canonical_order_id` gives the id back."""
    chance = pick.random()
    if chance < 0.72:
        return order_id
    if chance < 0.80:
        return "#" + order_id
    if chance < 0.85:
        return order_id.lower()
    if chance < 0.90 and len(order_id) >= 8:
        size, gap = pick.choice((3, 4)), pick.choice((" ", "-"))
        return gap.join(order_id[i : i + size] for i in range(0, len(order_id), size))
    if chance < 0.94:
        letters = len(order_id) - len(order_id.lstrip(string.ascii_uppercase))
        return (
            order_id[:letters] + pick.choice(("-", " ")) + order_id[letters:]
            if letters
            else "No." + order_id
        )
    if chance < 0.97:
        return "".join(chr(ord(c) + 0xFEE0) for c in order_id)
    return "# " + order_id


class Utterance(NamedTuple):
    """A message, its honest triage, and the order id as it stands in the text (which is what the model copies)."""

    text: str
    triage: Triage
    typed_id: str = ""

    def to_wire(self) -> str:
        """The JSON the model has to write for it."""
        wire = self.triage.to_wire()
        return wire.replace(f'"order_id":"{self.triage.order_id}"', f'"order_id":"{self.typed_id}"')


class Speaker:
    """One customer's way of writing. `number` gives the next order id to be mentioned."""

    def __init__(self, language: str, pick: random.Random, number: Callable[[], str]) -> None:
        self.language, self.pick, self.number = language, pick, number
        self.lists = seeds(language)

    def wish(self, intent: Intent, with_order: bool | None = None) -> Utterance:
        """A message with one wish; `with_order` False asks for a seed that names no order."""
        seed = self._seed(intent, with_order)
        if (
            self.pick.random() < 0.08
        ):  # several pieces: two ways of saying it, or something before it
            other = self._seed(
                intent if self.pick.random() < 0.5 or intent is Intent.OTHER else Intent.OTHER,
                False,
            )
            if "{reason" not in seed or "{reason" not in other:
                seed = self.pick.choice((" ", "\n", ",")).join((other, seed))
        return self._spoken(seed, intent)

    def listed(self, name: str, intent: Intent, act: Act = Act.ASK) -> Utterance:
        """A message from one of the lists beside the intents, such as `confirm` or `give_order`."""
        return self._spoken(
            self.pick.choice(self.lists[name]), intent, act, plain=name == "order_card"
        )

    def two_wishes(self) -> Utterance:
        """A message with two or three wishes; the further ones go to `more`."""
        if self.pick.random() < 0.5:
            label, seed = self.pick.choice(self.lists["two_wishes"]).split("\t")
            first, *more = map(Intent, label.split(","))
        else:
            first, second = self.pick.sample([i for i in Intent if i is not Intent.OTHER], 2)
            joint = self.pick.choice(
                ("\n", " 另外", ",还有", " 顺便", "。还有就是", " ")
                if self.language == "zh"
                else (". also ", ", and ", "\n", ". And another thing: ", " - plus ")
            )
            second_seed = (
                re.sub(r"\{(?:reason|address):([^{}]*)\}", r"\1", self._seed(second, False))
                .replace("{reason}", "")
                .replace("{address}", "")
            )
            seed, more = self._seed(first, None) + joint + second_seed, [second]
        said = self._spoken(seed, first, plain=True)
        return said._replace(triage=said.triage.model_copy(update={"more": more}))

    def hostile(self) -> Utterance:
        """An attempt to bend the assistant, with the label of its honest wish."""
        intent, text = self.pick.choice(self.lists["hostile"]).split("\t")
        text, order_id = self._filled_plainly(text)
        return Utterance(clean(text), Triage(intent=Intent(intent), order_id=order_id), order_id)

    # -- inside

    def _seed(self, intent: Intent, with_order: bool | None) -> str:
        lines = self.lists[intent.value]
        if with_order is None:
            return self.pick.choice(lines)
        for _ in range(40):
            if ("{order}" in (line := self.pick.choice(lines))) == with_order:
                return line
        return line

    def _spoken(
        self, seed: str, intent: Intent, act: Act = Act.ASK, plain: bool = False
    ) -> Utterance:
        kept: list[str] = []
        slots = {"order": "", "reason": "", "address": ""}

        def fill(match: re.Match[str]) -> str:
            kind, literal = match[1], match[2]
            value = self._blank(kind, literal, intent)
            kept.append(value)
            if kind in slots and not slots[kind]:
                slots[kind] = value
            return value

        text = BLANK.sub(fill, seed)
        if slots["order"] and text.count("{") == 0 and self.pick.random() < 0.06:
            text += self.pick.choice(
                (" 电话", "\n手机", " 联系电话:")
                if self.language == "zh"
                else (" phone ", "\ncall me on ", " tel: ")
            ) + self._blank("phone", None, intent)
        if not plain:
            text = dress(
                roughen(text, tuple(kept), self.language, self.pick), self.language, self.pick
            )
        reason = slots["reason"] if intent in REASONS else ""
        address = slots["address"] if intent is Intent.CHANGE_ADDRESS else ""
        typed_id = re.sub(r"^(?:#|No\.)\s*", "", clean(slots["order"]))
        triage = Triage(
            intent=intent,
            act=act,
            order_id=typed_id,
            reason=_slot(reason, 60),
            address=_slot(address, 120),
        )
        return Utterance(clean(text), triage, typed_id)

    def _filled_plainly(self, text: str) -> tuple[str, str]:
        order_id = self.number() if "{order}" in text else ""
        text = text.replace("{order}", order_id, 1).replace("{order}", order_number(self.pick))
        for kind in ("phone", "money", "name", "item", "date"):
            text = text.replace("{" + kind + "}", self._blank(kind, None, Intent.OTHER))
        return text, order_id

    def _blank(self, kind: str, literal: str | None, intent: Intent) -> str:
        pick, lists = self.pick, self.lists
        match kind:
            case "order":
                return as_typed(self.number(), pick)
            case "reason":
                fresh = pick.random() < 0.45 and intent in REASONS
                return pick.choice(lists[REASONS[intent]]) if fresh or not literal else literal
            case "address":
                another = not literal or (_is_street(literal) and pick.random() < 0.5)
                return _vary_digits(
                    pick.choice(lists["addresses"]) if another else str(literal), pick
                )
            case "money":
                return pick.choice(
                    (
                        str(pick.randrange(5, 9999)),
                        f"{pick.randrange(5, 999)}.{pick.randrange(100):02d}",
                    )
                )
            case "phone":
                return (
                    f"1{pick.choice('3456789')}{pick.randrange(10**8, 10**9)}"
                    if self.language == "zh" or pick.random() < 0.3
                    else f"+{pick.choice((1, 44, 61))} {pick.randrange(100, 999)} {pick.randrange(1000, 9999)} {pick.randrange(100, 9999)}"
                )
            case _:
                return pick.choice(
                    lists[
                        {"date": "dates", "item": "items", "city": "cities", "name": "names"}[kind]
                    ]
                )


def _is_street(text: str) -> bool:
    """Whether an address is one of a street: a new name or telephone number stands in a sentence that speaks of one."""
    return len(text) >= 8 and len(re.findall(r"\d", text)) < len(text) / 2


def _vary_digits(text: str, pick: random.Random) -> str:
    if pick.random() < 0.3:
        return text
    return re.sub(
        r"\d", lambda m: pick.choice("123456789") if m[0] != "0" else pick.choice("0123"), text
    )


def _slot(text: str, most: int) -> str:
    return (
        clean(text)[:most].strip()
        if '"' not in text and "\\" not in text and "\n" not in text
        else ""
    )
