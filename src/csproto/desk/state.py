"""What a dialogue carries over from turn to turn, and what one message leads to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from csproto.desk.case import Decision, Fact
from csproto.desk.triage import Triage, Wish

Kind = Literal["yes", "order", "detail", "reading", "human"]  # what an open question waits for


@dataclass(frozen=True)
class Question:
    """A question that waits for the customer.

    wish: what it is about, with the orders asked about. action: of the rule that asked.
    readings: the two intents between which the customer chooses, for `reading`.
    """

    kind: Kind
    action: str
    rule: str
    wish: Wish
    facts: Mapping[str, Fact] = field(default_factory=dict)
    readings: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """What carries over from turn to turn.

    focus: the orders under discussion. last: the last wish. misses: messages in a row that did not
    answer the open question. queue: wishes that wait for the question before them. behind: the
    question that comes back once the open one is answered.
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

    again: the open question is put once more.
    """

    decisions: tuple[Decision, ...]
    state: State
    again: bool = False


@dataclass(frozen=True)
class Reading:
    """A message as it was read: its triage, and how sure the model is of the first wish."""

    text: str
    triage: Triage
    sure: float = 1.0
    runner_up: str | None = None
