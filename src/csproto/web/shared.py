"""The visitors of all web processes on one PostgreSQL database.

A visitor is a row. Each process keeps the chats it has worked on, and loads one anew
when another process has changed it since.
"""

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from csproto.chat.messages import Message, snapshot
from csproto.chat.session import ChatSession
from csproto.desk.assistant import Assistant
from csproto.desk.conversation import ConversationUnknown
from csproto.shop.orders import CustomerUnknown, database_errors_typed
from csproto.shop.store import VisitorRow
from csproto.web.limits import Limits, Refused
from csproto.web.locks import AGAIN, Locks
from csproto.web.visitors import Signer, Visitor, Visitors

LOOK = 0.3  # seconds between looks whether somebody elsewhere wants an answer to stop
SEEN = 60.0  # seconds for which a visitor's last visit need not be written again
ROW = VisitorRow.__table__.c
HEAD = (ROW.name, ROW.customer_id, ROW.version, ROW.answering, ROW.came_back, ROW.seen_at)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Database:
    """What the visitors of one process need of the database."""

    engine: Engine
    locks: Locks
    assistant: Assistant

    def change(self, name: str, **values: Any) -> bool:
        """Change a visitor's row, and return whether there is one. Raises SQLAlchemyError."""
        with self.engine.begin() as connection:
            rows = update(VisitorRow).where(ROW.name == name).values(values)
            return bool(connection.execute(rows).rowcount)


class SharedVisitor(Visitor):
    """A visitor whose chat other processes may change, too.

    version: that of the row to which `chat` belongs.
    """

    def __init__(self, name: str, chat: ChatSession, database: Database, version: int = 0) -> None:
        super().__init__(name, chat)
        self.version, self._database = version, database
        self.elsewhere: Message | None = None  # what another process is answering

    @property
    def answering(self) -> Message | None:
        return self.chat.running or self.elsewhere

    @contextmanager
    def alone(self, patience: float = 0.0) -> Iterator[ChatSession]:
        """Reserve the chat for this request, over all processes.

        What is changed meanwhile is kept in the row. Raises Refused(429) if another
        request still has the chat after `patience` seconds, and OrderSystemDown.
        """
        began = time.monotonic()
        with super().alone(patience):
            left = max(0.0, patience - (time.monotonic() - began))
            with database_errors_typed(), self._database.locks.held(self.name, left) as is_ours:
                if not is_ours:
                    raise Refused(429, "busy", retry_after=1)
                self.refresh()
                try:
                    yield self.chat
                finally:
                    self._keep()

    def refresh(self) -> None:
        """Load the chat if another process has changed it. Raises SQLAlchemyError."""
        with self._database.engine.connect() as connection:
            query = select(*HEAD, ROW.conversation_id, ROW.chat).where(ROW.name == self.name)
            row = connection.execute(query).one_or_none()
        if row is None:
            raise Refused(404, "not_found")  # removed meanwhile
        self.elsewhere = None
        if row.version != self.version:
            self.chat = chat_of(row, self._database.assistant)
            self.version = row.version
        if row.answering:  # by a process that has died
            self.chat.add_stopped(row.answering)

    def note(self) -> None:
        """Keep the number of the conversation and the answer so far.

        If this process dies, another one goes on with the same conversation, so that
        no write is made twice.
        """
        values = {
            "conversation_id": self.chat.conversation_id,
            "answering": self.chat.running and snapshot(self.chat.running),
            "stop": False,
        }
        if not self._database.change(self.name, **values) and self.stop:
            self.stop.set()  # the visitor is gone

    def _keep(self) -> None:
        """Write the chat into the row. If that fails, the chat is loaded anew next time."""
        values = {
            "chat": self.chat.kept(),
            "conversation_id": self.chat.conversation_id,
            "answering": None,
            "version": self.version + 1,
        }
        try:
            self._database.change(self.name, **values)
            self.version += 1
        except SQLAlchemyError:
            self.version = -1
            logger.exception("a chat could not be kept; it is shown as it was before")

    def ask_to_stop(self) -> None:
        """End the answer under way, here or in another process."""
        super().ask_to_stop()
        if self.elsewhere:
            with database_errors_typed():
                self._database.change(self.name, stop=True)


class SharedVisitors(Visitors):
    """All visitors of all processes. While the database is down, those known here."""

    def __init__(self, limits: Limits, signer: Signer, database: Database) -> None:
        super().__init__(limits, signer)
        self._database = database
        self._known: OrderedDict[str, SharedVisitor] = OrderedDict()
        self._watching: threading.Thread | None = None
        self._error: SQLAlchemyError | None = None
        self._not_before = float("-inf")

    def find(self, cookie: str | None) -> Visitor | None:
        """Return the visitor with this cookie, unless it is forged or too old.

        Raises SQLAlchemyError if the database does not answer and the visitor is not
        known here.
        """
        name = self._signer.read(cookie)
        if name is None:
            return None
        known = self._known.get(name)
        try:
            if self._error and time.monotonic() < self._not_before:
                raise self._error
            row = self._row(name)
            visitor = self._visitor(row, known) if row else None
        except SQLAlchemyError as error:
            if error is not self._error:
                self._error, self._not_before = error, time.monotonic() + AGAIN
            if known is None:
                raise
            return known
        if visitor is None:
            self._forget(name)
        return visitor

    def _row(self, name: str) -> Any:
        """Return a visitor's row without the chat, and write that the visitor was here."""
        now = datetime.now(UTC)
        oldest = now - timedelta(seconds=self._limits.session_age)
        with self._database.engine.begin() as connection:
            query = select(*HEAD).where(ROW.name == name, ROW.seen_at > oldest)
            row = connection.execute(query).one_or_none()
            if row and (not row.came_back or (now - row.seen_at).total_seconds() > SEEN):
                seen = update(VisitorRow).where(ROW.name == name)
                connection.execute(seen.values(seen_at=now, came_back=True))
        return row

    def _visitor(self, row: Any, known: SharedVisitor | None) -> SharedVisitor | None:
        """Return the visitor of a row: the one that is known, if it is up to date."""
        if known is None or (known.version != row.version and not known.busy):
            with self._database.engine.connect() as connection:
                query = select(VisitorRow.__table__).where(ROW.name == row.name)
                whole = connection.execute(query).one_or_none()
            try:
                chat = chat_of(whole, self._database.assistant) if whole else None
            except CustomerUnknown:
                chat = None
            if chat is None:
                return None
            assert whole is not None
            known = SharedVisitor(row.name, chat, self._database, whole.version)
        self._remember(known)
        if not known.busy:
            self._look_elsewhere(known, row.answering)
        return known

    def _look_elsewhere(self, visitor: SharedVisitor, answering: Message | None) -> None:
        """Find out whether another process is answering, or has died while it did."""
        if answering and self._database.locks.is_taken(visitor.name):
            visitor.elsewhere = answering
            return
        visitor.elsewhere = None
        if answering:
            visitor.chat.add_stopped(answering)

    def add(self, chat: ChatSession) -> tuple[Visitor, str]:
        """Add a visitor, and return it with its cookie. Raises OrderSystemDown.

        If there are too many, one is dropped as in `Visitors.add`.
        """
        visitor = SharedVisitor(secrets.token_urlsafe(18), chat, self._database)
        now = datetime.now(UTC)
        row = {
            "name": visitor.name,
            "customer_id": chat.customer_id,
            "conversation_id": chat.conversation_id,
            "chat": chat.kept(),
            "stop": False,
            "version": 0,
            "came_back": False,
            "seen_at": now,
        }
        oldest = now - timedelta(seconds=self._limits.session_age)
        with database_errors_typed(), self._database.engine.begin() as connection:
            connection.execute(delete(VisitorRow).where(ROW.seen_at < oldest))
            count = connection.scalar(select(func.count()).select_from(VisitorRow)) or 0
            if (too_many := count + 1 - self._limits.sessions) > 0:
                idle = (
                    select(ROW.name)
                    .where(ROW.answering.is_(None))
                    .order_by(ROW.came_back, ROW.seen_at)
                    .limit(too_many)
                )
                if connection.execute(delete(VisitorRow).where(ROW.name.in_(idle))).rowcount == 0:
                    raise Refused(503, "EngineBusy", retry_after=5)
            connection.execute(insert(VisitorRow).values(row))
        self._remember(visitor)
        return visitor, self._signer.sign(visitor.name)

    def remove(self, visitor: Visitor) -> None:
        """Drop a visitor with the chat; an answer under way is stopped, here or elsewhere."""
        self._forget(visitor.name)
        with database_errors_typed(), self._database.engine.begin() as connection:
            connection.execute(delete(VisitorRow).where(ROW.name == visitor.name))
        if visitor.stop:
            visitor.stop.set()

    def __len__(self) -> int:
        return len(self._known)

    def _remember(self, visitor: SharedVisitor) -> None:
        with self._lock:
            self._known[visitor.name] = visitor
            self._known.move_to_end(visitor.name)
            if len(self._known) > self._limits.sessions:
                idle = next((other for other in self._known.values() if not other.busy), None)
                if idle:
                    del self._known[idle.name]
            if self._watching is None:
                self._watching = threading.Thread(
                    target=self._watch, name="csproto-stops", daemon=True
                )
                self._watching.start()

    def _forget(self, name: str) -> None:
        with self._lock:
            self._known.pop(name, None)

    def _watch(self) -> None:
        """Stop the answers whose visitor wants that in another process, or is gone."""
        while True:
            time.sleep(LOOK)
            with self._lock:
                busy = {v.name: v.stop for v in self._known.values() if v.chat.running and v.stop}
            if not busy:
                continue
            with suppress(SQLAlchemyError), self._database.engine.connect() as connection:
                query = select(ROW.name).where(ROW.name.in_(busy), ROW.stop.is_(False))
                going_on = set(connection.scalars(query))
                for name in busy.keys() - going_on:
                    busy[name].set()


def chat_of(row: Any, assistant: Assistant) -> ChatSession:
    """Make the chat that a row describes. Raises CustomerUnknown and SQLAlchemyError."""
    customer, conversation = row.customer_id, row.conversation_id
    try:
        chat = ChatSession(assistant, customer, conversation_id=conversation, reasons=False)
    except ConversationUnknown:  # nothing of it was saved, so nothing was written for it
        chat = ChatSession(assistant, customer, reasons=False)
    chat.take_up(row.chat)
    return chat
