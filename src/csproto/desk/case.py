"""What a rule looks at and what it says.

A case is one order of one wish, a decision is what happens about it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from csproto.desk.handbook import Handbook
from csproto.desk.triage import Wish
from csproto.orders import CustomerFacts, OrderView, Write


@dataclass(frozen=True)
class Label:
    """A word that is put into the customer's language later, such as the state `shipped`."""

    group: str
    value: str


@dataclass(frozen=True)
class Day:
    """A calendar day that is put into words later."""

    day: date


@dataclass(frozen=True)
class Parts:
    """Texts of the database or the customer that are joined by commas later."""

    parts: tuple[str, ...]


Fact = Label | Day | Parts | tuple[OrderView, ...] | int | str  # an int is an amount in cents
Facts = Mapping[str, Fact]


@dataclass(frozen=True)
class Decision:
    """What happens about one order of one wish.

    facts: what the reply may say, in no language yet.
    asks: this decision puts a question and waits for the answer.
    """

    intent: str | None
    order: str | None
    rule: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    write: Write | None = None
    asks: bool = False


@dataclass(frozen=True)
class Case:
    """One order of one wish, with everything it is decided by.

    `order` is None where none is meant.
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
        return self.day(self.now)

    def day(self, moment: datetime) -> date:
        """The calendar day of a moment in the shop's time zone."""
        return moment.astimezone(self.handbook.values.zone).date()

    def window(self, name: str) -> int:
        return self.handbook.values.windows[name]

    def says(
        self,
        rule: str,
        facts: Facts | None = None,
        *,
        write: Write | None = None,
        asks: bool = False,
    ) -> Decision:
        """A decision by a rule; order and article are always among the facts."""
        about: dict[str, Fact] = (
            {"order": self.order.id, "item": self.order.item} if self.order else {}
        )
        order = self.order.id if self.order else None
        return Decision(self.wish.intent, order, rule, {**about, **(facts or {})}, write, asks)

    def write(self, kind: Any, detail: str = "", escalated: bool = False) -> Write:
        return Write(kind, self.order.id if self.order else "", detail or self.text, escalated)

    def open_ticket(self, kind: str) -> bool:
        """Whether a ticket of this kind is open for this order already."""
        return (kind, self.order.id if self.order else "") in self.facts.open_tickets
