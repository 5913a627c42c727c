"""Whether the engine answers, and the way back to it after it was restarted, at another address too."""

from contextlib import suppress
from typing import TypedDict

import urllib3

from csproto.assistant import Assistant
from csproto.endpoint import Endpoint, EngineError
from csproto.server import read_state
from csproto.transcript import system_prompt

PATIENCE = 2.0  # seconds
_pool = urllib3.PoolManager(maxsize=64, retries=False)  # many visitors ask at once


class EngineState(TypedDict):
    """`ok`, and the name of the model that answers or would."""

    ok: bool
    model: str


def engine_state(assistant: Assistant) -> EngineState:
    """Ask the engine; one that is gone is replaced by the server that `csproto serve` runs now, if there is one.

    Takes milliseconds when it answers or nobody listens, and 2 s when the machine is silent.
    """
    ok = _is_ready(assistant.endpoint.base_url) or _reattached(assistant)
    return {"ok": ok, "model": assistant.endpoint.model_name}


def _is_ready(base_url: str) -> bool:
    """SGLang's `/ready` needs no key and costs nothing."""
    with suppress(urllib3.exceptions.HTTPError):
        return _pool.request("GET", f"{base_url}/ready", timeout=PATIENCE).status == 200
    return False


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
