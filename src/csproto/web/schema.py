"""The shapes of the API, as its OpenAPI document shows them."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class Question(BaseModel):
    """What the customer writes."""

    input: str = Field("", examples=["我的订单到哪了?"])


class Answer(BaseModel):
    """The reply in `response`; the rest says why, as `csproto ask --json` prints it, and is absent where nothing was decided."""

    response: str
    triage: dict[str, Any] | None = None
    decision: dict[str, Any] | None = None
    also: list[dict[str, Any]] | None = None
    reply: str | None = None
    usage: dict[str, Any] | None = None
    error: str | None = None


class Problem(BaseModel):
    """What to do, in the visitor's language, and a code for programs."""

    response: str
    error: str


class Healthy(BaseModel):
    """The engine has just generated a token, and the database has just been written."""

    status: Literal["ok"] = "ok"
    versions: dict[str, str]


class Unhealthy(BaseModel):
    """The engine or the database cannot answer, and why."""

    status: Literal["unavailable"] = "unavailable"
    reason: str
    versions: dict[str, str]


class SessionState(BaseModel):
    """The visitor's chat as the page shows it."""

    info: dict[str, Any]
    messages: list[dict[str, Any]]


class TakenBack(SessionState):
    """The chat without its last message, and that message's text."""

    text: str


class NewChat(BaseModel):
    """The customer the visitor would like to be; whether that is granted is up to the sign-in."""

    customer: str | None = Field(None, max_length=32)


class TakeBack(BaseModel):
    """`again`: the same text will be sent once more, so its writes must not happen twice."""

    again: bool = False


class Thumbs(BaseModel):
    """A rating of one message: up, down or neither."""

    id: str = Field(max_length=32)
    rating: Literal[-1, 0, 1]


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {
        "model": Problem,
        "description": "Asked under a host name that is not this server's, or no HTTP that makes sense.",
    },
    401: {"model": Problem, "description": "Nobody is signed in."},
    403: {"model": Problem, "description": "Sent from another site."},
    413: {"model": Problem, "description": "Too large."},
    415: {"model": Problem, "description": "Not JSON."},
    422: {"model": Problem, "description": "JSON, but not in the right form."},
    429: {"model": Problem, "description": "Too fast. `Retry-After` says how many seconds to wait."},
    503: {
        "model": Problem,
        "description": "The engine or the database is down or busy. `Retry-After` says how many seconds to wait.",
    },
}
MISSING: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No such chat, message or customer."}
}
EVENTS: dict[str, Any] = {
    "description": "Server-sent events; `data` is JSON.",
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "required": ["event", "data"],
                "properties": {
                    "event": {"enum": ["triage", "decision", "token", "done", "error"]},
                    "data": {"type": "string"},
                },
            }
        }
    },
}
