"""What becomes of one message.

The turn with its decisions and figures, and the events that tell of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from csproto.desk.case import Decision
from csproto.desk.handbook import Handbook, Language
from csproto.desk.reply import shown
from csproto.desk.state import Question
from csproto.desk.triage import Triage
from csproto.endpoint import Usage


@dataclass
class Turn:
    """Everything about one message and its answer: what `csproto ask --json` prints.

    tickets: numbers of the tickets that belong to its writes, by place of the decision.
    """

    text: str
    language: Language
    triage: Triage | None = None
    sure: float | None = None
    runner_up: str | None = None
    decisions: tuple[Decision, ...] = ()
    question: Question | None = None
    choices: list[dict[str, str]] = field(default_factory=list)
    reply: str = ""
    usage: Usage = field(default_factory=Usage)
    reusable_tokens: int = 0  # tokens computed earlier in this conversation
    reused_tokens: int = 0  # of these, how many came from the cache
    ttft_ms: float = 0.0
    total_ms: float = 0.0

    def as_dict(self, handbook: Handbook) -> dict[str, Any]:
        """The JSON form; every key is present."""
        waiting = None
        if self.question:
            wish = self.question.wish
            waiting = {
                "action": self.question.action,
                "intent": wish.intent,
                "orders": list(wish.orders),
            }
        return {
            "triage": self.triage.as_dict() if self.triage else None,
            "sure": self.sure,
            "runner_up": self.runner_up,
            "decisions": [self._decision(decision, handbook) for decision in self.decisions],
            "waiting": waiting,
            "choices": self.choices,
            "reply": self.reply,
            "usage": self._usage(),
        }

    def _decision(self, decision: Decision, handbook: Handbook) -> dict[str, Any]:
        rule = handbook.rules[decision.rule]
        return {
            "intent": decision.intent,
            "order": decision.order,
            "action": rule.action,
            "rule": decision.rule,
            "source": rule.source,
            "facts": shown(decision.facts, handbook, self.language),
            "write": decision.write.kind if decision.write else None,
        }

    def _usage(self) -> Mapping[str, float]:
        return vars(self.usage) | {
            "reusable_tokens": self.reusable_tokens,
            "reused_tokens": self.reused_tokens,
            "ttft_ms": round(self.ttft_ms, 1),
            "total_ms": round(self.total_ms, 1),
        }


@dataclass(frozen=True)
class Understood:
    """The model has read the message."""

    turn: Turn


@dataclass(frozen=True)
class Decided:
    """The rules have decided and the writes are done."""

    turn: Turn


@dataclass(frozen=True)
class Said:
    """A piece of the reply."""

    text: str


@dataclass(frozen=True)
class Done:
    """The turn is complete and saved."""

    turn: Turn


Event = Understood | Decided | Said | Done
