"""The messages of a chat as plain JSON, and the steps by which one of them grows.

`messages.js` applies the same steps in the browser and comes to the same message.
"""

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from csproto.desk.assistant import Decided, Done, Event, Said, Understood
from csproto.desk.choices import choices
from csproto.desk.conversation import Conversation
from csproto.desk.handbook import Handbook
from csproto.desk.triage import from_wire
from csproto.desk.turn import Turn

# {"step": "start" | "triage" | "decision" | "token" | "done" | "stopped" | "failed", ...}
Step = dict[str, Any]
Message = dict[str, Any]
Rating = Literal[-1, 0, 1]
OF_A_TURN = (
    *("triage", "sure", "runner_up", "decisions", "waiting", "choices", "reply", "usage"),
    "times",
)


def new_message(place: int, text: str) -> Message:
    """Return a message that has just been sent.

    Its `state` is running, then done, stopped or failed. The keys from `triage` to
    `usage` are those of `Turn.as_dict`; `times` has the milliseconds of each stage, and
    `why` says what was wrong with an answer that is rated down.
    """
    return {
        "id": f"m{place}",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "text": text,
        "state": "running",
        "triage": None,
        "sure": None,
        "runner_up": None,
        "decisions": [],
        "waiting": None,
        "choices": [],
        "reply": "",
        "usage": None,
        "times": {},
        "error": None,
        "rating": 0,
        "why": "",
    }


def steps_of(event: Event, handbook: Handbook) -> list[Step]:
    """Return the steps that an event of the desk means. Every decision is one step."""
    match event:
        case Understood(turn):
            known = turn.as_dict(handbook)
            return [{"step": "triage"} | {k: known[k] for k in ("triage", "sure", "runner_up")}]
        case Decided(turn):
            made = turn.as_dict(handbook)["decisions"]
            return [{"step": "decision", "decision": decision} for decision in made]
        case Said(text):
            return [{"step": "token", "text": text}]
        case Done(turn):
            return [{"step": "done", "turn": turn.as_dict(handbook) | {"times": turn.times}}]


def apply(message: Message, step: Step) -> None:
    """Change a message by one step."""
    match step["step"]:
        case "triage":
            message |= {key: step[key] for key in ("triage", "sure", "runner_up")}
        case "decision":
            message["decisions"].append(step["decision"])
        case "token":
            message["reply"] += step["text"]
        case "done":
            message |= step["turn"] | {"state": "done"}
        case "stopped":
            message["state"] = "stopped"
        case "failed":
            error = {"code": step["code"], "reason": step["reason"]}
            message |= {"state": "failed", "error": error}


def steps_again(message: Message) -> Iterator[Step]:
    """Yield the steps of a message that was answered before, marked as such at the end."""
    yield {"step": "start", "message": snapshot(message)}
    yield {"step": "triage"} | {key: message[key] for key in ("triage", "sure", "runner_up")}
    for decision in message["decisions"]:
        yield {"step": "decision", "decision": decision}
    yield {"step": "token", "text": message["reply"]}
    yield {"step": "done", "turn": {key: message[key] for key in OF_A_TURN}, "again": True}


def snapshot(message: Message) -> Message:
    """Return a copy that later steps do not change."""
    return copy.deepcopy(message)


def kept_messages(conversation: Conversation, handbook: Handbook) -> list[Message]:
    """Return the messages of a conversation that was loaded from the database.

    They have text, triage and reply; the transcript does not have their times, rules
    and figures. A turn that was cut off while it wrote is a stopped message: if its text
    is sent again, the turn is completed.
    """
    turns: list[Turn] = []
    for role, content in conversation.transcript:
        if role == "user":
            turns.append(Turn(content, conversation.language))
        elif role == "assistant" and turns[-1].triage is None:
            turns[-1].triage = from_wire(content)
        elif role == "assistant":  # the last one is the reply; claims may stand before it
            turns[-1].reply = content
    if turns:
        turns[-1].question = conversation.state.question
        turns[-1].choices = choices(turns[-1].question, handbook, conversation.language)
    messages = [new_message(0, turn.text) | turn.as_dict(handbook) for turn in turns]
    ended: dict[str, Any] = {"at": None, "usage": None}
    kept = [message | ended | {"state": "done"} for message in messages]
    if conversation.under_way:
        kept.append(new_message(0, conversation.under_way.text) | ended | {"state": "stopped"})
    return [message | {"id": f"kept{place}"} for place, message in enumerate(kept)]
