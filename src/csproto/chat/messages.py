"""What a chat looks like from outside: messages as plain JSON, and the steps by which one of them grows.

`chat.js` has the same `apply`, so that kernel and browser come to the same message from the same steps.
"""

import copy
from datetime import UTC, datetime
from typing import Any, Literal

from csproto.assistant import Decided, Done, Event, Part, Token, Triaged
from csproto.policy import Rules

Step = dict[str, Any]  # {"step": "start" | "triage" | "decision" | "token" | "done" | "stopped" | "failed", ...}
Message = dict[str, Any]
Rating = Literal[-1, 0, 1]


def new_message(place: int, text: str) -> Message:
    """A message that has just been sent: `state` is running, then done, stopped or failed."""
    return {
        "kind": "turn",
        "id": f"m{place}",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "text": text,
        "state": "running",
        "triage": None,
        "parts": [],
        "reply": "",
        "usage": None,
        "error": None,
        "rating": 0,
    }


def new_notice(place: int, code: str, writes: list[dict[str, str]]) -> Message:
    """A line of the panel's own, between the messages."""
    return {"kind": "notice", "id": f"n{place}", "code": code, "writes": writes}


def step_of(event: Event, rules: Rules) -> Step:
    """The step an event of the assistant means."""
    match event:
        case Triaged(triage):
            return {"step": "triage", "triage": triage.model_dump(mode="json")}
        case Decided(part):
            return {"step": "decision", "part": part_dict(part, rules)}
        case Token(text):
            return {"step": "token", "text": text}
        case Done(turn):
            return {"step": "done", "turn": turn.as_dict()}


def part_dict(part: Part, rules: Rules) -> dict[str, Any]:
    """A decision as it stands before its reply."""
    rule = part.decision.rule
    return {
        "action": part.decision.action,
        "rule": rule,
        "source": rules.sources[rule],
        "facts": part.facts,
        "grounded": not part.rejected,
        "rejected": list(part.rejected),
        "fallback": part.fallback,
    }


def apply(message: Message, step: Step) -> None:
    """Let a message grow by one step."""
    match step["step"]:
        case "triage":
            message["triage"] = step["triage"]
        case "decision":
            message["parts"].append(step["part"])
        case "token":
            message["reply"] += step["text"]
        case "done":
            turn = step["turn"]
            message |= {"triage": turn["triage"], "parts": [turn["decision"], *turn["also"]]}
            message |= {"reply": turn["reply"], "usage": turn["usage"], "state": "done"}
        case "stopped":
            message["state"] = "stopped"
        case "failed":
            message |= {"state": "failed", "error": {"code": step["code"], "reason": step["reason"]}}


def snapshot(message: Message) -> Message:
    """A copy that later steps leave alone."""
    return copy.deepcopy(message)
