"""Locks that the web processes of one database share, and that end with their process."""

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from csproto import settings
from csproto.errors import CsprotoError

AGAIN = 2.0  # seconds after a failure in which the database is not asked
LOOK = 0.05  # seconds between two tries to get a lock
ALONE = "the only web process"  # the lock of a process whose cookies no other one can read

# PostgreSQL shows the two halves of a lock's number.
TAKEN = text(
    """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND classid = :high AND objid = :low
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
)


class AnotherProcess(CsprotoError):
    """Another web process serves the same database, and the two cannot share it."""


class Locks:
    """Advisory locks of PostgreSQL.

    They belong to one connection of this process. If the process dies, the connection
    ends with it, and PostgreSQL gives its locks free at once. Safe to use from any
    thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._taken: set[str] = set()
        self._shared: set[str] = set()
        self._error: SQLAlchemyError | None = None
        self._not_before = float("-inf")
        self._lock = threading.Lock()

    @contextmanager
    def held(self, name: str, patience: float = 0.0) -> Iterator[bool]:
        """Hold a lock, and yield whether it could be had within `patience` seconds.

        Raises SQLAlchemyError if the database does not answer.
        """
        deadline = time.monotonic() + patience
        while not (taken := self.take(name)) and time.monotonic() < deadline:
            time.sleep(LOOK)
        try:
            yield taken
        finally:
            if taken:
                self.give(name)

    def take(self, name: str) -> bool:
        """Take a lock if nobody has it, here or elsewhere. Raises SQLAlchemyError."""
        with self._lock:
            if name in self._taken or not self._ask("pg_try_advisory_lock", name):
                return False
            self._taken.add(name)
            return True

    def give(self, name: str) -> None:
        """Give a lock back. If the connection is lost, PostgreSQL has done so already."""
        with self._lock:
            self._taken.discard(name)
            if self._connection:
                with suppress(SQLAlchemyError):
                    self._ask("pg_advisory_unlock", name)

    def share(self, name: str) -> bool:
        """Take a lock that many may have at once, unless somebody has it alone."""
        with self._lock:
            if not self._ask("pg_try_advisory_lock_shared", name):
                return False
            self._shared.add(name)
            return True

    def is_taken(self, name: str) -> bool:
        """Return whether anybody has the lock, here or elsewhere. Raises SQLAlchemyError."""
        high, low = divmod(_number(name) % 2**64, 2**32)
        with self._engine.connect() as connection:
            return bool(connection.scalar(TAKEN, {"high": high, "low": low}))

    def _ask(self, function: str, name: str) -> bool:
        """Call a function of PostgreSQL.

        A connection that was lost is made anew. If that fails too, nobody waits for
        the database again within AGAIN seconds.
        """
        if self._error and time.monotonic() < self._not_before:
            raise self._error
        query, words = text(f"SELECT {function}(:number)"), {"number": _number(name)}
        try:
            if self._connection:
                with suppress(SQLAlchemyError):
                    return bool(self._connection.scalar(query, words))
                self._drop()
            self._connection = self._connected()
            return bool(self._connection.scalar(query, words))
        except SQLAlchemyError as error:
            self._drop()
            self._error, self._not_before = error, time.monotonic() + AGAIN
            raise

    def _drop(self) -> None:
        if self._connection:
            with suppress(SQLAlchemyError):
                self._connection.invalidate()
                self._connection.close()
            self._connection = None

    def _connected(self) -> Connection:
        """Return a new connection that has the locks which the one before it had."""
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()  # it is never given to anybody else
        for name in self._taken:
            connection.scalar(text("SELECT pg_try_advisory_lock(:n)"), {"n": _number(name)})
        for name in self._shared:
            connection.scalar(text("SELECT pg_try_advisory_lock_shared(:n)"), {"n": _number(name)})
        return connection


def _number(name: str) -> int:
    """Return the number by which PostgreSQL knows a lock."""
    digest = hashlib.sha256(f"csproto:{name}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


@contextmanager
def shareable(engine: Engine, locks: Locks | None, has_secret: bool) -> Iterator[None]:
    """See to it that no other web process uses the database unless the two can share it.

    locks: those of the database; None for SQLite.
    has_secret: whether other processes can read this one's cookies.

    Raises AnotherProcess, and SQLAlchemyError if the database does not answer.
    """
    if locks is None:
        path = engine.url.database or ""
        if engine.dialect.name == "sqlite" and path and not path.startswith((":", "file:")):
            with _only_one(Path(path)):
                yield
        else:
            yield
        return
    if not (locks.share(ALONE) if has_secret else locks.take(ALONE)):
        raise AnotherProcess(
            "Another web process serves this database, and the two cannot read each other's "
            f"cookies. Set {settings.COOKIE_SECRETS.name} to the same value for both "
            "(`openssl rand -hex 32` makes one), and start them again."
        )
    yield


def _only_one(database: Path) -> IO[str]:
    """Lock a file beside a SQLite database. Raises AnotherProcess if somebody else has."""
    path = database.with_name(f"{database.name}-web")
    # Not the database's own file: closing it would end the locks that SQLite has on it.
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise AnotherProcess(
            f"Another web process (pid {owner}) serves the SQLite database {database.name}, and "
            "one is the most: sessions and limits are in its memory. End it, or name a "
            f"PostgreSQL database in {settings.DATABASE.name} for several processes."
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
