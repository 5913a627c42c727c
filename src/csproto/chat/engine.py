"""Whether the engine answers, and the way back to it after it was restarted, at another address too."""

from typing import TypedDict

from csproto.assistant import Assistant
from csproto.engine.endpoint import Endpoint, EngineError
from csproto.engine.server import answers, read_state
from csproto.transcript import system_prompt

PATIENCE = 2.0  # seconds


class EngineState(TypedDict):
    """`ok`, and the name of the model that answers or would."""

    ok: bool
    model: str


def engine_state(assistant: Assistant) -> EngineState:
    """Ask the engine; one that is gone is replaced by the server that `csproto serve` runs now, if there is one.

    Takes milliseconds when it answers or nobody listens, 2 s when the machine is silent,
    and some seconds when the engine has stalled (see `csproto.engine.server.answers`).
    """
    ok = answers(assistant.endpoint.base_url, PATIENCE) or _reattached(assistant)
    return {"ok": ok, "model": assistant.endpoint.model_name}


def _reattached(assistant: Assistant) -> bool:
    """A server that was restarted has another port and another key: both stand in its state file."""
    state = read_state()
    if state is None:
        return False
    try:
        endpoint = Endpoint(state["base_url"], state["api_key"])
    except EngineError:
        return False
    assistant.prompt = system_prompt(endpoint.model_name)
    assistant.endpoint = endpoint
    return True
