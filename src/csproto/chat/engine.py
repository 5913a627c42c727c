"""Whether the engine answers, and how a chat finds an engine that was restarted."""

from typing import TypedDict

from csproto.desk.assistant import Assistant
from csproto.desk.reader import ModelReader
from csproto.engine.endpoint import Endpoint, EngineError, StopSignal
from csproto.engine.running import read_state
from csproto.engine.server import answers
from csproto.errors import CsprotoError
from csproto.opening import desk_on
from csproto.shop.orders import OrderApi

PATIENCE = 2.0  # seconds


class EngineState(TypedDict):
    """Whether the engine answers, and the name of its model."""

    ok: bool
    model: str


def endpoint_of(assistant: Assistant) -> Endpoint:
    """Return the model server that a desk uses. Raises CsprotoError if it uses none."""
    reader = assistant.reader(StopSignal())
    if not isinstance(reader, ModelReader):
        raise CsprotoError("This desk uses no model server. Make one with `csproto.opening`.")
    return reader.endpoint


def shop_of(assistant: Assistant) -> OrderApi:
    """Return the order system of a desk, whose database also has chats and ratings.

    Raises CsprotoError if the order system has no such database.
    """
    if not isinstance(assistant.orders, OrderApi):
        raise CsprotoError("A chat needs an order system with a database: a subclass of OrderApi.")
    return assistant.orders


def engine_state(assistant: Assistant) -> EngineState:
    """Ask whether the engine answers.

    If it does not, the desk goes on with the server that `csproto serve` runs now, if
    there is one. Takes milliseconds if the engine answers or nobody listens, 2 s if the
    machine is silent, and some seconds if the engine has stalled (see
    `csproto.engine.server.answers`).
    """
    ok = answers(endpoint_of(assistant).base_url, PATIENCE) or _reattached(assistant)
    return {"ok": ok, "model": endpoint_of(assistant).model_name}


def _reattached(assistant: Assistant) -> bool:
    """Connect the desk to the running server, and return whether there is one.

    A server that was restarted has another port and another key, and may have another
    model. The server's state file has the first two; prompt, limits, guess and
    similar lines belong to the model.
    """
    state = read_state()
    if state is None:
        return False
    try:
        endpoint = Endpoint(state["base_url"], state["api_key"])
    except EngineError:
        return False
    fresh = desk_on(endpoint, shop_of(assistant), shop=assistant.handbook)
    assistant.reader, assistant.prompt = fresh.reader, fresh.prompt
    assistant.limits, assistant.guess = fresh.limits, fresh.guess
    assistant.similar = fresh.similar
    return True
