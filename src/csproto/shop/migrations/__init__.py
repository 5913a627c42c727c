"""The shop's schema, in steps. The same steps bring every database up to date, an empty one too.

A new step is a file in `versions`, whose `down_revision` names the step before it.
`store.SCHEMA` names the newest step. A test compares the schema after all steps with
the tables in `store`.
"""

import threading
from pathlib import Path

from sqlalchemy.engine import Connection, Engine

from csproto.errors import CsprotoError
from csproto.shop.store import SCHEMA, schema_of

ONE_AT_A_TIME = threading.Lock()  # alembic keeps what it works on in globals
LOCK = 7_203_118  # any number that nobody else in the database uses


class SchemaTooNew(CsprotoError):
    """A later version of this package made the database."""


def migrate(engine: Engine) -> tuple[str, str]:
    """Create the schema or bring it up to date. The tables keep what they hold.

    Either all steps happen or none. Two processes do it one after the other. The only
    way back is a backup.

    Returns the schema's number before and after. Raises SchemaTooNew.
    """
    # The import takes a third of a second, and most commands do not need it.
    from alembic import command
    from alembic.config import Config

    with ONE_AT_A_TIME, engine.begin() as connection:
        wait_for_others(connection)
        before = schema_of(connection)
        if before > SCHEMA:
            raise SchemaTooNew(
                f"The database has schema {before}, and this version of csproto knows {SCHEMA} "
                "at most. Update csproto."
            )
        if before == SCHEMA:
            return before, SCHEMA
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
        config.attributes["connection"] = connection
        if before:
            # A database from before there were migrations does not have its number yet.
            command.stamp(config, before)
        command.upgrade(config, "head")
    return before, SCHEMA


def wait_for_others(connection: Connection) -> None:
    """Wait for other processes that set the database up; they wait until this transaction ends.

    Without it, SQLite would also commit each statement of the migration by itself.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
