"""The shop's schema, step by step: every database that ever was comes up to date by the same files, an empty one too.

A new step is a file in `versions`, with `down_revision` naming the one before, and `store.SCHEMA` naming it; a test compares the outcome with the tables.
"""

import threading
from pathlib import Path

from sqlalchemy.engine import Connection, Engine

from csproto.errors import CsprotoError
from csproto.shop.store import SCHEMA, schema_of

ONE_AT_A_TIME = threading.Lock()  # alembic keeps what it works on in globals
LOCK = 7_203_118  # any number that nobody else in the database uses


class SchemaTooNew(CsprotoError):
    """The database was made by a later version of this package."""


def migrate(engine: Engine) -> tuple[str, str]:
    """Create the schema or bring it up to date; what the tables hold is kept. Returns the schema's number before and after.

    All of it happens or nothing, and two processes do it one after the other. There is no way back but a backup. Raises SchemaTooNew.
    """
    from alembic import command  # takes a third of a second, and most commands do without it
    from alembic.config import Config

    with ONE_AT_A_TIME, engine.begin() as connection:
        _alone(connection)
        before = schema_of(connection)
        if before > SCHEMA:
            raise SchemaTooNew(
                f"The database has schema {before}, and this version of csproto knows {SCHEMA} at most. Update csproto."
            )
        if before == SCHEMA:
            return before, SCHEMA
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
        config.attributes["connection"] = connection
        if before:
            command.stamp(config, before)  # one from before there were migrations does not know its number
        command.upgrade(config, "head")
    return before, SCHEMA


def _alone(connection: Connection) -> None:
    """Keep every other migration waiting until this transaction ends. SQLite would otherwise commit each statement by itself."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
