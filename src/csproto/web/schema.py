"""The shapes of the API, as its OpenAPI document shows them."""

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from csproto.chat.records import Why
from csproto.shop.store import STAFF_NAME, STAFF_NOTE


def _whole(text: str) -> str:
    """Return a text without halves of characters, which JSON can have and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


Text = Annotated[str, AfterValidator(_whole)]
Id = Annotated[str, Field(pattern=r"^[^\x00]*$"), AfterValidator(_whole)]


class Asked(BaseModel):
    """The body of a request. A field that it does not have is refused, not passed over."""

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, body: Any) -> Any:
        """Raise an error of the type `unknown_field` that names the nearest field."""
        known = list(cls.model_fields)
        for name in body if isinstance(body, dict) else ():
            if name not in known:
                near = get_close_matches(str(name), known, 1, cutoff=0.0)[0]
                got = _whole(str(name))[:40]
                raise PydanticCustomError("unknown_field", "unknown", {"got": got, "near": near})
        return body


class Question(Asked):
    """What the customer writes."""

    input: Text = Field("", description="the customer's message", examples=["我的订单到哪了?"])
    id: Id = Field(
        "",
        max_length=64,
        description="your own random name of this message: send it again with the same one if "
        "the answer was lost, and you get that answer, and nothing is done twice",
    )


class Choice(BaseModel):
    """A button below the reply. Pressing it sends `text` as the next message."""

    kind: Literal["yes_no", "order", "reading", "human"]
    label: str
    text: str


class Answer(BaseModel):
    """The reply in `response`, and the reasons for it as `csproto ask --json` prints them.

    The reasons are absent if the message was refused; `error` then says why.
    """

    response: str
    triage: dict[str, Any] | None = None
    sure: float | None = None
    runner_up: str | None = None
    decisions: list[dict[str, Any]] = []
    waiting: dict[str, Any] | None = None
    choices: list[Choice] = []
    reply: str | None = None
    usage: dict[str, Any] | None = None
    times: dict[str, float] = {}
    error: str | None = None


class Problem(BaseModel):
    """What to do, in the visitor's language, and a code for programs."""

    response: str
    error: str


class Alive(BaseModel):
    """All is well."""

    status: Literal["ok"] = "ok"


class Unready(BaseModel):
    """Send nobody here now, and why."""

    status: Literal["unavailable"] = "unavailable"
    reason: str


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


class NewChat(Asked):
    """A wish for a new chat.

    customer: whom the visitor would like to be; the sign-in decides about it.
    conversation: the number of a conversation of this customer to take up again.
    """

    customer: Id | None = Field(None, max_length=32, description="whom to be, in the demo")
    conversation: Id = Field("", max_length=40, description="one to take up again")


class Thumbs(Asked):
    """A rating of one message: up, down or neither. why: what was wrong with it."""

    id: Id = Field(max_length=32, description="of the message, as `X-Message-Id` names it")
    rating: Literal[-1, 0, 1] = Field(description="1 up, -1 down, 0 neither")
    why: Why = Field("", description="what was wrong with it")


Name = Annotated[str, Field(max_length=STAFF_NAME, pattern=r"^[^\x00]*$"), AfterValidator(_whole)]
Note = Annotated[str, Field(max_length=STAFF_NOTE, pattern=r"^[^\x00]*$"), AfterValidator(_whole)]


class StaffSignIn(Asked):
    """The token of the staff, and who of them signs in."""

    token: Text = Field(max_length=500)
    by: Name = Field(pattern=r"\S")


class StaffWork(Asked):
    """Who of the staff works on a ticket; a program with the token has to say it."""

    by: Name = ""


class StaffClose(StaffWork):
    """note: what was done, for other members of staff."""

    note: Note = ""


class Suggestion(BaseModel):
    """A message that fits an order, by language."""

    intent: str
    text: dict[str, str]


class ShownOrder(BaseModel):
    """An order of the customer.

    day: when it reached its state. open: the kinds of its open tickets. wishes: messages
    that the customer may want to send about it.
    """

    id: str
    item: str
    status: str
    refund: str
    day: str
    amount: str
    open: list[str]
    wishes: list[Suggestion]


class Earlier(BaseModel):
    """A conversation of the customer: its number, first message, beginning and length."""

    id: str
    title: str
    at: str
    turns: int


class TicketState(BaseModel):
    """A ticket of this conversation, what became of it, and when."""

    number: str
    kind: str
    state: Literal["open", "taken", "closed"]
    at: str


def problem_of(description: str) -> dict[str, Any]:
    """Return the entry of an error in the OpenAPI document."""
    return {"model": Problem, "description": description}


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: problem_of("Asked under a name that is not this server's, or no valid HTTP."),
    401: problem_of("Nobody is signed in."),
    403: problem_of("Sent from another site."),
    408: problem_of("Not sent in time."),
    413: problem_of("Too large."),
    415: problem_of("Not JSON."),
    422: problem_of("JSON, but not in the right form."),
    429: problem_of("Too fast. `Retry-After` says how many seconds to wait."),
    503: problem_of(
        "The engine or the database is down or busy. `Retry-After` says how many seconds to wait."
    ),
}
MISSING: dict[int | str, dict[str, Any]] = {
    404: problem_of("No such chat, conversation, message or customer.")
}
EVENTS: dict[str, Any] = {
    "description": "Server-sent events; `data` is JSON.",
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "required": ["event", "data"],
                "properties": {
                    "event": {"enum": ["waiting", "triage", "decision", "token", "done", "error"]},
                    "data": {"type": "string"},
                },
            }
        }
    },
}
