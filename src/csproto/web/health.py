"""The truth about engine and database: healthy is who has just generated a token, and just been written."""

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

from csproto.assistant import Assistant
from csproto.chat.engine import engine_state
from csproto.engine.server import bearer
from csproto.shop.store import ConversationRow

KEPT = 5.0  # seconds an answer is believed
PATIENCE = 10.0  # seconds an engine may take for one token
DATABASE_PATIENCE = 3.0  # seconds a database may take for one small write
logger = logging.getLogger(__name__)


class Health:
    """Writes to the database, and asks SGLang's own `/health`, which generates a token.

    Several askers at once share one question.
    """

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant
        self._probe: Future[None] | None = None
        self._lock = threading.Lock()
        self._known: tuple[float, str] = (float("-inf"), "")

    def reason(self) -> str:
        """Why nobody can be answered; empty when all is well.

        Takes up to DATABASE_PATIENCE and PATIENCE seconds; call it from a thread.
        """
        came_at = time.monotonic()
        with self._lock:
            answered_at, reason = self._known
            if answered_at < (
                came_at if reason else came_at - KEPT
            ):  # what was found out while we waited is new enough
                reason = self._ask_database() or self._ask_engine()
                self._known = time.monotonic(), reason
            return reason

    def _ask_database(self) -> str:
        """A database that hangs is given up after a while, and asked again only once it has let go of the question."""
        if self._probe is None or self._probe.done():
            self._probe = Future()
            work = (self._assistant.orders.engine, self._probe)
            threading.Thread(target=_write_and_take_back, args=work, name="csproto-health", daemon=True).start()
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
        endpoint = self._assistant.endpoint
        headers = bearer(endpoint.api_key)
        try:
            response = urllib3.request(
                "GET", f"{endpoint.base_url}/health", headers=headers, timeout=PATIENCE, retries=False
            )
        except urllib3.exceptions.HTTPError:
            return f"The SGLang engine accepts connections but has generated nothing for {PATIENCE:.0f} s."
        return "" if response.status == 200 else f"The SGLang engine says it is not healthy (status {response.status})."

    def versions(self) -> dict[str, Any]:
        """What runs here."""
        found = {name: _version(name) for name in ("csproto", "sglang", "torch", "fastapi")}
        return found | {"python": platform.python_version(), "model": self._assistant.endpoint.model_name}


def _write_and_take_back(engine: Engine, outcome: Future[None]) -> None:
    """Write a row and delete it again, as every turn writes its conversation.

    A database that is full or read-only can still be read, so reading would say too
    little. The row is larger than a page of SQLite, because small ones find room longer.
    """
    row = {"id": f"health-{secrets.token_hex(8)}", "customer_id": "", "started_at": datetime.now(UTC)}
    try:
        with engine.begin() as connection:
            connection.execute(insert(ConversationRow).values(**row, turns=0, state={}, transcript=["x" * 5_000]))
            connection.execute(delete(ConversationRow).where(ConversationRow.id == row["id"]))
        outcome.set_result(None)
    except BaseException as error:
        outcome.set_exception(error)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
