"""What a dialogue carries over between messages, and what one message leads to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from csproto.desk.case import Decision, Fact
from csproto.desk.triage import Triage, Wish

Kind = Literal["yes", "order", "detail", "reading", "human"]  # what an open question waits for


@dataclass(frozen=True)
class Question:
    """A question that waits for the customer's answer.

    kind: what answers it.
    action, rule: the rule that asked, and its action.
    wish: the wish it is about, with the orders that were asked about.
    asked_at: when it was asked.
    facts: the values in its wording, such as the orders as they were then.
    readings: for the kind `reading`, the two intents between which the customer
        chooses.
    """

    kind: Kind
    action: str
    rule: str
    wish: Wish
    asked_at: datetime
    facts: Mapping[str, Fact] = field(default_factory=dict)
    readings: tuple[str, ...] = ()

    def about(self, orders: Sequence[str]) -> "Question":
        """Return the same question about some of its orders."""
        seen = self.facts.get("orders", ())
        left = tuple(view for view in seen if view.id in orders) if isinstance(seen, tuple) else ()
        wish = replace(self.wish, orders=tuple(orders))
        return replace(self, wish=wish, facts={**self.facts, "orders": left})


@dataclass(frozen=True)
class State:
    """What a dialogue carries over from one message to the next.

    focus: the orders under discussion.
    last: the last wish.
    question: the open question.
    queue: wishes that wait until no question is open.
    misses: messages in a row that did not answer the open question.
    behind: the question that the open one interrupted, and which comes back afterwards.
    """

    focus: tuple[str, ...] = ()
    last: Wish | None = None
    question: Question | None = None
    queue: tuple[Wish, ...] = ()
    misses: int = 0
    behind: Question | None = None


@dataclass(frozen=True)
class Outcome:
    """The decisions on one message and the state after it.

    again: the reply repeats the open question.
    """

    decisions: tuple[Decision, ...]
    state: State
    again: bool = False


@dataclass(frozen=True)
class Reading:
    """A message as the model read it.

    sure: how sure the model was (0 to 1). runner_up: the second likeliest first intent.
    """

    text: str
    triage: Triage
    sure: float = 1.0
    runner_up: str | None = None


@dataclass(frozen=True)
class Limits:
    """How sure a model must be (probabilities from 0 to 1), lest the desk asks back.

    answering: for any wish. writing: for a yes with more in it, and for a wish that calls a
    human at once.
    """

    answering: float = 0.0
    writing: float = 0.0


SURE = Limits()
