"""What a rule sees and what it decides.

A case is one wish for one order. A decision says what happens about that order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any

from csproto.desk.handbook import Handbook, HandbookError
from csproto.desk.triage import Wish
from csproto.shop.facts import CustomerFacts, OrderView, Write


@dataclass(frozen=True)
class Label:
    """A word that the reply translates, such as the state `shipped`.

    group, value: where the handbook has the word. Most groups are `labels` of
    `shop.yaml`; `answer` stands for `answers.yaml`, `wish` for the labels of the wish
    files.
    """

    group: str
    value: str


@dataclass(frozen=True)
class Day:
    """A calendar day that the reply writes in the customer's language."""

    day: date


@dataclass(frozen=True)
class Parts:
    """Texts of the database or the customer that the reply joins with commas."""

    parts: tuple[str, ...]


Fact = Label | Day | Parts | tuple[OrderView, ...] | int | str  # an int is an amount in cents
Facts = Mapping[str, Fact]


@dataclass(frozen=True)
class Decision:
    """What happens about one order of one wish.

    intent, order: what it is about; None if it is about no wish or no order.
    rule: the rule that decided.
    facts: the values that the reply may name, not yet in any language.
    write: the change to make, if any.
    asks: whether the desk asks the customer something and waits for the answer.
    """

    intent: str | None
    order: str | None
    rule: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    write: Write | None = None
    asks: bool = False

    def with_ticket(self, number: int) -> "Decision":
        """Return the decision with the number of its write's ticket; 0 stands for none."""
        ticket = {"ticket": f"T{number:05d}"} if number else {}
        return replace(self, facts={**self.facts, **ticket})


@dataclass(frozen=True)
class Case:
    """One wish for one order, with everything that a rule may look at.

    order: None if the wish is about no order. agreed: the customer has said yes to the
    question that the rule asked.
    """

    wish: Wish
    order: OrderView | None
    facts: CustomerFacts
    now: datetime
    handbook: Handbook
    agreed: bool = False
    text: str = ""  # the customer's message, for the human who will read the ticket

    @property
    def today(self) -> date:
        """The present day in the shop's time zone."""
        return self.day(self.now)

    def day(self, moment: datetime) -> date:
        """Return the calendar day of a moment in the shop's time zone."""
        return moment.astimezone(self.handbook.values.zone).date()

    def window(self, name: str) -> int:
        """Return a time limit of `shop.yaml`, in days unless its name says hours."""
        return self.handbook.values.windows[name]

    def says(
        self,
        rule: str,
        facts: Facts | None = None,
        *,
        write: Write | None = None,
        asks: bool = False,
    ) -> Decision:
        """Return a decision by a rule, with order and article among the facts.

        Raises HandbookError if the handbook has no such rule.
        """
        if rule not in self.handbook.rules:
            raise HandbookError(
                f"The rule {rule} is in no wish file: add it to that of {self.wish.intent}, "
                "or correct its name in policy.py."
            )
        about: dict[str, Fact] = (
            {"order": self.order.id, "item": self.order.item} if self.order else {}
        )
        order = self.order.id if self.order else None
        return Decision(self.wish.intent, order, rule, {**about, **(facts or {})}, write, asks)

    def write(self, kind: Any, detail: str = "", escalated: bool = False) -> Write:
        """Return a write about this order. Without a `detail` it quotes the message."""
        return Write(kind, self.order.id if self.order else "", detail or self.text, escalated)

    def open_ticket(self, kind: str) -> bool:
        """Return whether a ticket of this kind is already open for this order."""
        return (kind, self.order.id if self.order else "") in self.facts.open_tickets
