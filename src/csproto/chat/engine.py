"""Whether the engine answers, and how a chat finds an engine that was restarted."""

import logging
import threading
import time
from typing import TypedDict
from weakref import WeakKeyDictionary

import urllib3

from csproto.desk.assistant import Assistant
from csproto.desk.reader import ModelReader
from csproto.engine.endpoint import Endpoint, StopSignal
from csproto.engine.running import read_state, running_model
from csproto.engine.server import answers
from csproto.errors import CsprotoError
from csproto.opening import desk_on
from csproto.shop.orders import OrderApi

PATIENCE = 2.0  # seconds for an answer
RENEWAL = 5.0  # seconds to wait for a renewed desk; a long prompt takes longer to be read
MODEL = ("model_path", "served_model_name")  # what `/model_info` says of a model
LOOK_AGAIN = 5.0  # seconds after which a server is asked again which model it runs

logger = logging.getLogger(__name__)


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
    there is one. A desk on a server that was named by its URL never moves to another
    one. If the server runs another model or has another key than before, the desk is
    made anew for it, and the log says so.

    Takes milliseconds if the engine answers or nobody listens, 2 s if the machine is
    silent, and some seconds if the engine has stalled (see
    `csproto.engine.server.answers`) or the desk is made anew.
    """
    endpoint = endpoint_of(assistant)
    ok = answers(endpoint.base_url, PATIENCE, key=endpoint.api_key)
    link = _link_of(assistant)
    if place := link.other_place(endpoint, ok):
        ok = link.renewed(assistant, endpoint, *place)
    return {"ok": ok, "model": endpoint_of(assistant).model_name}


class _Link:
    """Watches the server of one desk, and makes the desk anew when the server has changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._looked_at = float("-inf")
        self._fault, self._done = "", False

    def other_place(self, endpoint: Endpoint, ok: bool) -> tuple[str, str | None] | None:
        """Return URL and key of the server for which the desk must be made anew, if any.

        ok: whether the server of `endpoint` answers.
        """
        if ok and time.monotonic() - self._looked_at < LOOK_AGAIN:
            return None
        self._looked_at = time.monotonic()
        state = read_state()
        # A restarted server has another key, and another port unless it was given one.
        if state and state["base_url"] == endpoint.base_url:
            key: str | None = state["api_key"]
        else:
            key = endpoint.api_key
        if ok:
            now = running_model(endpoint.base_url, key)
            same = all(now[n] == str(endpoint.model_info.get(n)) for n in MODEL if n in now)
            return None if same and key == endpoint.api_key else (endpoint.base_url, key)
        if state is None or not _may_move(endpoint):
            return None
        return state["base_url"], state["api_key"]

    def renewed(self, assistant: Assistant, endpoint: Endpoint, url: str, key: str | None) -> bool:
        """Make the desk anew for a server, and return whether that is done.

        endpoint: the server that was looked at.

        A long prompt is read in the background: until then the engine counts as starting.
        """
        with self._lock:
            if endpoint_of(assistant) is not endpoint:
                return True  # somebody else has seen the change, and the desk is ready
            if self._thread is None or not self._thread.is_alive():
                work = (assistant, url, key)
                self._done = False
                self._thread = threading.Thread(target=self._renew, args=work, daemon=True)
                self._thread.start()
            thread = self._thread
        thread.join(RENEWAL)
        if not self._done:
            self._looked_at = float("-inf")  # look again at the next call
        return self._done

    def _renew(self, assistant: Assistant, url: str, key: str | None) -> None:
        """Give the desk all that belongs to a server and its model."""
        was = endpoint_of(assistant)
        try:
            endpoint = Endpoint(url, key)
            endpoint.named = was.named
            fresh = desk_on(endpoint, shop_of(assistant), shop=assistant.handbook)
        except CsprotoError as error:
            if str(error) != self._fault:  # it is tried again and again
                self._fault = str(error)
                logger.warning("the desk cannot use the server at %s: %s", url, error)
            return
        assistant.reader, assistant.prompt = fresh.reader, fresh.prompt
        assistant.limits, assistant.guess = fresh.limits, fresh.guess
        assistant.similar = fresh.similar
        self._fault, self._done = "", True
        logger.warning(
            "the desk goes on with the model %s at %s; before it was %s at %s",
            endpoint.model_name,
            endpoint.base_url,
            was.model_name,
            was.base_url,
        )


_links: "WeakKeyDictionary[Assistant, _Link]" = WeakKeyDictionary()
_linking = threading.Lock()


def _link_of(assistant: Assistant) -> _Link:
    with _linking:
        return _links.setdefault(assistant, _Link())


def _may_move(endpoint: Endpoint) -> bool:
    """Return whether a desk on this server may go on with the one that `csproto serve` runs.

    It may not if the server was named, or runs on another machine.
    """
    host = urllib3.util.parse_url(endpoint.base_url).host
    return not endpoint.named and host in ("127.0.0.1", "localhost", "[::1]")
