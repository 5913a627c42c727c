"""Dialogues without a model.

Each message comes with the triage that an honest reader would write.
"""

from dataclasses import replace

from support import NOW

from csproto.desk.dialogue import respond
from csproto.desk.handbook import Handbook
from csproto.desk.reply import alternatives
from csproto.desk.state import Limits, Outcome, Reading, State
from csproto.desk.triage import Act, Triage, Wish
from csproto.shop.orders import OrderApi


def wish(intent: str, *orders: str, **slots: object) -> Wish:
    return Wish(intent, orders, slots)


class Rehearsed:
    """One customer of the demo shop, with the writes really made."""

    def __init__(
        self, orders: OrderApi, customer: str, handbook: Handbook, threshold: float = 0.0
    ) -> None:
        self.orders, self.customer, self.handbook, self.threshold = (
            orders,
            customer,
            handbook,
            threshold,
        )
        self.state, self.now, self.turns = State(), NOW, 0
        self.outcome = Outcome((), self.state)

    def hears(
        self,
        text: str,
        *wishes: Wish,
        act: Act = "ask",
        sure: float = 1.0,
        runner_up: str | None = None,
    ) -> "Rehearsed":
        """Answer one message; `outcome` has the decisions, whose writes are made."""
        reading = Reading(text, Triage(act, wishes), sure, runner_up)
        facts = self.orders.facts(self.customer)
        self.outcome = respond(
            reading,
            facts,
            self.state,
            self.now,
            self.handbook,
            Limits(self.threshold, self.threshold),
        )
        self.state, self.turns = self.outcome.state, self.turns + 1
        for place, decision in enumerate(self.outcome.decisions):
            if decision.write:
                key = f"{self.customer}:{self.turns}:{place}"
                number = self.orders.write(
                    key, self.customer, decision.write, self.now, decision.rule
                )
                decisions = list(self.outcome.decisions)
                decisions[place] = decision.with_ticket(number)
                self.outcome = replace(self.outcome, decisions=tuple(decisions))
        return self

    @property
    def rules(self) -> list[str]:
        return [decision.rule for decision in self.outcome.decisions]

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [(d.write.kind, d.write.order_id) for d in self.outcome.decisions if d.write]

    @property
    def waits_for(self) -> str | None:
        return self.state.question.kind if self.state.question else None

    def reply(self, language: str = "en") -> str:
        return alternatives(self.outcome, self.handbook, language)[0]  # type: ignore[arg-type]
