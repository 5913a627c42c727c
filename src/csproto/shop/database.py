"""Opens the shop's database, which gets the demo data on first use."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from csproto import settings
from csproto.errors import CsprotoError
from csproto.shop import demo
from csproto.shop.store import SCHEMA, open_engine, schema_of


class DatabaseUnusable(CsprotoError):
    """The database cannot be opened, or its schema is not the one this version uses."""


def open_database(url: str | None = None, *, demo_data: bool = True) -> Engine:
    """Open the shop's database.

    url: a SQLAlchemy URL; that of the settings unless given.
    demo_data: whether a database without tables gets them and the demo data.

    Raises DatabaseUnusable, also for a database with the schema of another version.
    """
    url = url or settings.database_url()
    with usable(url):
        engine = open_engine(url)
        schema = schema_of(engine)
        if not schema and demo_data:
            demo.fill_if_empty(open_engine(url, patience=None), datetime.now(UTC))
            return engine
    if not schema:
        raise DatabaseUnusable(
            f"The database {url_without_password(url)} has no tables. Check CSPROTO_DB. "
            "`csproto db migrate` creates them, `csproto db init` also adds the demo data."
        )
    if schema != SCHEMA:
        raise DatabaseUnusable(
            f"The database {url_without_password(url)} has schema {schema}, and this version of "
            f"csproto uses {SCHEMA}. Run `csproto db migrate`; what is in it is kept."
        )
    return engine


@contextmanager
def usable(url: str) -> Iterator[None]:
    """Turn any error of a database into a DatabaseUnusable, whose text is one line."""
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise DatabaseUnusable(
            f"The database {url_without_password(url)} cannot be used: {reason} "
            "Check CSPROTO_DB, and that the database runs, has room and may be written."
        ) from error


def url_without_password(url: str) -> str:
    """Return a database URL without its user and password."""
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://***@{tail}" if at else url
