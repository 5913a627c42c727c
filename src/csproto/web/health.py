"""Finds out whether the desk can answer: the engine must generate, the database be written."""

import logging
import platform
import secrets
import threading
import time
from concurrent.futures import Future
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import urllib3
from sqlalchemy import delete, insert
from sqlalchemy.engine import Engine

from csproto.chat.engine import endpoint_of, engine_state, shop_of
from csproto.desk.assistant import Assistant
from csproto.engine.server import bearer
from csproto.shop.store import ConversationRow

KEPT = 5.0  # seconds for which a good answer is used again
PATIENCE = 10.0  # seconds an engine may take for one token
DATABASE_PATIENCE = 3.0  # seconds a database may take for one small write
logger = logging.getLogger(__name__)


class Health:
    """Writes to the database, and asks SGLang's own `/health`, which generates a token.

    Callers that come at the same time share one answer.

    generates: whether the engine has to generate a token; else it only has to say that
        it is ready.
    """

    def __init__(self, assistant: Assistant, generates: bool = True) -> None:
        self._assistant, self._generates = assistant, generates
        self._probe: Future[None] | None = None
        self._lock = threading.Lock()
        self._known: tuple[float, str] = (float("-inf"), "")

    def reason(self) -> str:
        """Return why nobody can be answered; empty if everything works.

        Takes up to DATABASE_PATIENCE and PATIENCE seconds; call it from a thread.
        """
        came_at = time.monotonic()
        with self._lock:
            answered_at, reason = self._known
            # What was found out while this caller waited is new enough.
            oldest = came_at if reason else came_at - KEPT
            if answered_at < oldest:
                reason = self._ask_database() or self._ask_engine()
                self._known = time.monotonic(), reason
            return reason

    def _ask_database(self) -> str:
        """Write to the database, and give up after DATABASE_PATIENCE seconds.

        A write that still hangs is waited for again, instead of a second one beside it.
        """
        if self._probe is None or self._probe.done():
            self._probe = Future()
            work = (shop_of(self._assistant).engine, self._probe)
            threading.Thread(
                target=_write_and_delete, args=work, name="csproto-health", daemon=True
            ).start()
        try:
            error = self._probe.exception(DATABASE_PATIENCE)
        except TimeoutError:
            return f"The database has not answered for {DATABASE_PATIENCE:.0f} s."
        if error:
            logger.error("the database cannot be used: %s", str(error).partition("\n")[0])
        return "The database cannot be reached, or not be written." if error else ""

    def _ask_engine(self) -> str:
        if not engine_state(self._assistant)["ok"]:
            return "The SGLang engine does not answer, or it is still starting."
        if not self._generates:
            return ""
        endpoint = endpoint_of(self._assistant)
        if endpoint.is_router:  # its `/health` says only that it runs
            if endpoint.generates(PATIENCE):
                return ""
            return f"No engine behind the router has generated a token in {PATIENCE:.0f} s."
        try:
            response = urllib3.request(
                "GET",
                f"{endpoint.base_url}/health",
                headers=bearer(endpoint.api_key),
                timeout=PATIENCE,
                retries=False,
            )
        except urllib3.exceptions.HTTPError:
            return (
                "The SGLang engine accepts connections but has generated nothing for "
                f"{PATIENCE:.0f} s."
            )
        if response.status == 200:
            return ""
        return f"The SGLang engine says it is not healthy (status {response.status})."

    def versions(self) -> dict[str, Any]:
        """Return the versions of what runs here, and the model."""
        found = {name: _version(name) for name in ("csproto", "sglang", "torch", "fastapi")}
        model = endpoint_of(self._assistant).model_name
        return found | {"python": platform.python_version(), "model": model}


def _write_and_delete(engine: Engine, outcome: Future[None]) -> None:
    """Write a row and delete it again, as every turn writes its conversation.

    A database that is full or read-only can still be read, so reading would not be
    enough. The row is larger than a page of SQLite, because a full database may still
    have room for a small one.
    """
    name, now = f"health-{secrets.token_hex(8)}", datetime.now(UTC)
    row = {"id": name, "customer_id": "", "started_at": now, "turns": 0, "state": {}}
    try:
        with engine.begin() as connection:
            connection.execute(insert(ConversationRow).values(**row, transcript=["x" * 5_000]))
            connection.execute(delete(ConversationRow).where(ConversationRow.id == name))
        outcome.set_result(None)
    except BaseException as error:
        outcome.set_exception(error)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
