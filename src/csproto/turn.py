"""What becomes of one message: the turn with its decisions and figures, and the events by which it is told as it happens."""

from dataclasses import dataclass, field
from typing import Any

from csproto.engine.endpoint import Usage
from csproto.policy import Decision, default_rules
from csproto.triage import Triage


@dataclass
class Part:
    """One decision of a turn and the reply to it; a message with two wishes has two."""

    decision: Decision
    facts: dict[str, str]
    reply: str = ""
    rejected: list[str] = field(default_factory=list)  # sentences the check refused, with the reason
    fallback: bool = False  # the template was sent in place of the model's words


@dataclass
class Turn:
    """Everything about one message and its answer: what `csproto ask --json` prints, and the trace the panel shows."""

    text: str
    triage: Triage  # as the model wrote it
    meant: Triage  # with what the message itself settles: what was decided on
    parts: list[Part]
    usage: Usage
    note: str = ""  # an extra sentence of ours: a reminder, or that the next wish is noted
    reusable_tokens: int = 0  # tokens computed earlier in this conversation
    reused_tokens: int = 0  # of these, how many came from the cache
    ttft_ms: float = 0.0
    total_ms: float = 0.0

    @property
    def decision(self) -> Decision:
        """The decision on the message's first wish."""
        return self.parts[0].decision

    @property
    def reply(self) -> str:
        """All the customer reads."""
        return " ".join(filter(None, [*(p.reply for p in self.parts), self.note]))

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        usage = vars(self.usage) | {
            "reusable_tokens": self.reusable_tokens,
            "reused_tokens": self.reused_tokens,
            "ttft_ms": round(self.ttft_ms, 1),
            "total_ms": round(self.total_ms, 1),
        }
        return {
            "triage": self.triage.model_dump(mode="json"),
            "decision": _decision_dict(self.parts[0]),
            "also": [_decision_dict(part) for part in self.parts[1:]],
            "reply": self.reply,
            "usage": usage,
        }


def _decision_dict(part: Part) -> dict[str, Any]:
    return {
        "action": part.decision.action,
        "rule": part.decision.rule,
        "source": default_rules().sources[part.decision.rule],
        "facts": part.facts,
        "grounded": not part.rejected,
        "rejected": part.rejected,
        "fallback": part.fallback,
    }


@dataclass(frozen=True)
class Triaged:
    """The model has understood the message."""

    triage: Triage


@dataclass(frozen=True)
class Decided:
    """A rule has fired and its write is done."""

    part: Part


@dataclass(frozen=True)
class Token:
    """A piece of the reply that has passed the check."""

    text: str


@dataclass(frozen=True)
class Done:
    """The turn is complete and saved."""

    turn: Turn


Event = Triaged | Decided | Token | Done
