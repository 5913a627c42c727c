"""Open what a conversation needs: the database, filled with the demo on first use, and a server, attached to or started."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from csproto import demo, settings
from csproto.errors import CsprotoError
from csproto.orders import Faults, OrderApi
from csproto.server import Progress, Server, find
from csproto.store import SCHEMA, open_engine, schema_of


class DatabaseUnusable(CsprotoError):
    """The database cannot be opened, or it is not ours."""


def open_database(url: str | None = None) -> Engine:
    """The shop's database; an empty one gets the demo data. Raises DatabaseUnusable, for one of another version's schema too."""
    url = url or settings.database_url()
    with usable(url):
        engine = open_engine(url)
        schema = schema_of(engine)
        if not schema:
            demo.fill(open_engine(url, patience=None), datetime.now(UTC))
    if schema not in ("", SCHEMA):
        raise DatabaseUnusable(
            f"The database {open_engine_name(url)} has schema {schema}, and this version of csproto uses {SCHEMA}. Run `csproto db migrate`; what is in it is kept."
        )
    return engine


@contextmanager
def usable(url: str) -> Iterator[None]:
    """Work with a database; what is wrong with it is said in one line. Raises DatabaseUnusable."""
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        raise DatabaseUnusable(
            f"The database {open_engine_name(url)} cannot be used: {str(error).splitlines()[0]} Check CSPROTO_DB, and that the database runs, has room and may be written."
        ) from error


def open_engine_name(url: str) -> str:
    """A database URL without its password."""
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://***@{tail}" if at else url


@contextmanager
def connected(
    base_url: str | None = None, model: str | None = None, progress: Progress | None = None
) -> Iterator["tuple[str, str | None]"]:
    """URL and key of the server to use; one of our own is started, and stopped at the end, when none is running."""
    if found := find(base_url):
        yield found
        return
    if progress:
        progress("no server is running (`csproto serve` keeps one): starting one for this command")
    server = Server(model or settings.MINI_MODEL).start()
    try:
        server.wait_ready(progress=progress)
        yield server.base_url, server.api_key
    finally:
        server.stop()


@contextmanager
def assistant(
    base_url: str | None = None,
    *,
    model: str | None = None,
    database: str | None = None,
    faults: Faults | None = None,
    progress: Progress | None = None,
) -> "Iterator[Assistant]":  # type: ignore[name-defined]  # noqa: F821
    """An assistant ready to talk, and everything behind it closed afterwards."""
    engine = open_database(database)
    with connected(base_url, model, progress) as (url, key):
        from csproto.assistant import Assistant  # imports sglang, which takes seconds
        from csproto.endpoint import Endpoint

        yield Assistant(Endpoint(url, key), OrderApi(engine, faults))
