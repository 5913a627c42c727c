"""The result of one message: the turn, and the events while it is answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from csproto.desk.case import Decision
from csproto.desk.handbook import Handbook, Language
from csproto.desk.reply import shown
from csproto.desk.state import Question
from csproto.desk.triage import Triage
from csproto.engine.endpoint import Usage


@dataclass
class Turn:
    """One message with everything that the desk found out, decided and answered.

    text: the cleaned message.
    language: the language of the reply.
    sure, runner_up: how sure the model was, and the second likeliest first intent (see
        `sureness`).
    question: the question that is open afterwards.
    choices: the buttons.
    usage: the figures of all model calls.
    ttft_ms: the time until the reply is there, in milliseconds.
    total_ms: the time until the conversation is saved.
    times: milliseconds by stage: facts, understood, rule, written, said.
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
    reusable_tokens: int = 0  # computed by earlier calls of the conversation
    reused_tokens: int = 0  # of these, how many came from the prefix cache
    ttft_ms: float = 0.0
    total_ms: float = 0.0
    times: dict[str, float] = field(default_factory=dict)

    def as_dict(self, handbook: Handbook) -> dict[str, Any]:
        """Return what `csproto ask --json` prints. Every key is present."""
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
    """The model has read the message: `turn` has the triage."""

    turn: Turn


@dataclass(frozen=True)
class Decided:
    """The rules have decided and the writes are made: `turn` has the decisions."""

    turn: Turn


@dataclass(frozen=True)
class Said:
    """The reply is there: `text` is all of it."""

    text: str


@dataclass(frozen=True)
class Done:
    """The turn is complete and the conversation saved."""

    turn: Turn


Event = Understood | Decided | Said | Done
