"""Migrations create the schema, or bring an older database up to date and keep what is in it.

Tested on SQLite and on PostgreSQL, and with the command that users run.
"""

import importlib
import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command as alembic
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import column, func, insert, select, table, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from support import NOW

from csproto.shop import demo, migrations
from csproto.shop.database import DatabaseUnusable, open_database
from csproto.shop.facts import Write
from csproto.shop.migrations import SchemaTooNew, migrate
from csproto.shop.orders import OrderApi
from csproto.shop.store import SCHEMA, Base, Customer, Ticket, open_engine, schema_of


def steps() -> list[str]:
    """Return the numbers of all steps, the oldest first."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][
        ::-1
    ]


def first_version(engine: Engine) -> None:
    """Make the tables as they were before there were migrations.

    They hold a customer, an order, and tickets, of which there could be two of one kind
    for one order then.
    """
    module = importlib.import_module("csproto.shop.migrations.versions.s0001_first")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        module.upgrade()
    with Session(engine) as session, session.begin():
        session.add(Customer(id="C001", name="林晓", language="zh", joined_at=NOW))
        session.flush()
        values = {
            "id": "1",
            "customer_id": "C001",
            "item": "kettle",
            "category": "home",
            "amount": 1,
            "opened": False,
            "created_at": NOW.replace(tzinfo=None),
            "payment": "ok",
            "refund": "none",
            "invoice": "none",
        }
        values |= dict.fromkeys(("address", "note", "carrier", "tracking_number"), "")
        session.execute(insert(table("orders", *map(column, values))).values(**values))
        ticket = {
            "customer_id": "C001",
            "order_id": "1",
            "escalated": False,
            "closed": False,
            "created_at": NOW.replace(tzinfo=None),
            "summary": "x",
        }
        for kind in ("payment", "payment", "refund_overdue", "urge", "urge"):
            row = ticket | {"kind": kind}
            session.execute(insert(table("ticket", *map(column, row))).values(**row))


def open_tickets(engine: Engine) -> list[str]:
    with Session(engine) as session:
        return sorted(session.scalars(select(Ticket.kind).where(~Ticket.closed)))


def differences(engine: Engine) -> list:
    """Return what differs between the database and the tables that the code uses."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, Base.metadata)


def test_an_empty_database_gets_the_tables_the_code_uses(empty_database: str) -> None:
    engine = open_engine(empty_database)
    assert schema_of(engine) == ""
    assert migrate(engine) == ("", SCHEMA)
    assert schema_of(engine) == SCHEMA
    assert differences(engine) == []
    assert migrate(engine) == (SCHEMA, SCHEMA)


def test_the_first_version_keeps_what_is_in_it(empty_database: str) -> None:
    engine = open_engine(empty_database)
    first_version(engine)
    assert schema_of(engine) == "0001"
    assert migrate(engine) == ("0001", SCHEMA)
    assert differences(engine) == []
    assert open_tickets(engine) == ["payment", "refund_overdue", "urge", "urge"]
    with Session(engine) as session:
        assert session.get_one(Customer, "C001").name == "林晓"
        assert session.scalar(select(func.count()).select_from(Ticket)) == 5
        payments = select(Ticket.id).where(Ticket.kind == "payment", ~Ticket.closed)
        assert min(session.scalars(payments)) == 1
    again = Write("payment", "1", "again")
    assert OrderApi(engine).write("k", "C001", again, NOW, "payment.review") == 1


def test_the_step_for_the_staff_keeps_open_and_closed_tickets(empty_database: str) -> None:
    """From the step before it; nobody knows who closed what was closed then."""
    engine = open_engine(empty_database)
    first_version(engine)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        alembic.stamp(config, "0001")
        alembic.upgrade(config, "0005")
        connection.execute(text("UPDATE ticket SET closed = true WHERE kind = 'urge'"))
    assert schema_of(engine) == "0005"
    assert migrate(engine) == ("0005", SCHEMA)
    assert open_tickets(engine) == ["payment", "refund_overdue"]
    with Session(engine) as session:
        for ticket in session.scalars(select(Ticket)):
            assert (ticket.taken_by, ticket.closed_by, ticket.note) == ("", "", "")
            assert (ticket.taken_at, ticket.closed_at) == (None, None)
            assert ticket.summary == "x"


def test_the_database_itself_refuses_a_second_open_ticket(empty_database: str) -> None:
    engine = open_engine(empty_database)
    first_version(engine)
    migrate(engine)
    for kind, refused in (("payment", True), ("urge", False)):
        with Session(engine) as session:
            session.add(Ticket(customer_id="C001", order_id="1", kind=kind, created_at=NOW))
            if refused:
                with pytest.raises(IntegrityError):
                    session.flush()
            else:
                session.flush()


def test_a_migration_that_fails_leaves_the_database_as_it_was(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If the last step fails, nothing of the steps before it stays either."""
    folder = tmp_path / "steps"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(migrations.__file__).parent, folder, ignore=ignore)
    (folder / "versions" / "s9999.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision = '9999', '{SCHEMA}'\n"
        "def upgrade():\n"
        "    op.execute('CREATE TABLE halfway (id INTEGER)')\n"
        "    op.execute('SELECT * FROM nowhere')\n"
    )
    engine = open_engine(empty_database)
    first_version(engine)
    monkeypatch.setattr(migrations, "__file__", str(folder / "__init__.py"))
    with pytest.raises(Exception, match="nowhere"):
        migrate(engine)
    assert schema_of(engine) == "0001"
    with engine.connect() as connection:
        assert not engine.dialect.has_table(connection, "halfway")
    assert open_tickets(engine) == ["payment", "payment", "refund_overdue", "urge", "urge"]
    monkeypatch.undo()
    assert migrate(engine) == ("0001", SCHEMA)


def test_four_at_once_do_it_once(empty_database: str) -> None:
    engines = [open_engine(empty_database) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        before = sorted(b for b, _ in pool.map(migrate, engines))
    assert before == ["", SCHEMA, SCHEMA, SCHEMA]
    assert differences(engines[0]) == []


def test_a_later_versions_database_is_left_alone(empty_database: str) -> None:
    engine = open_engine(empty_database)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9998'"))
    with pytest.raises(SchemaTooNew, match="Update csproto"):
        migrate(engine)
    assert schema_of(engine) == "9998"


def test_the_newest_step_is_the_one_the_tables_name() -> None:
    assert steps()[-1] == SCHEMA
    assert steps() == sorted(steps())


def test_the_steps_travel_with_the_package() -> None:
    """A wheel has them because their folders are packages."""
    folder = Path(migrations.__file__).parent
    assert {path.name for path in folder.rglob("*.py")} >= {"env.py", "__init__.py"}
    assert all((path.parent / "__init__.py").exists() for path in folder.rglob("*.py"))


# With the commands that a user runs.


def test_an_old_database_is_refused_with_the_command_to_run(tmp_path: Path, run_cli) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    first_version(open_engine(url))
    with pytest.raises(DatabaseUnusable, match=r"schema 0001.*csproto db migrate"):
        open_database(url)
    refused = run_cli("tickets", CSPROTO_DB=url)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "csproto db migrate" in refused.stderr
    migrated = run_cli("db", "migrate", CSPROTO_DB=url)
    assert migrated.returncode == 0, migrated.stderr
    assert f"schema {SCHEMA}, before 0001" in migrated.stdout
    shown = run_cli("tickets", CSPROTO_DB=url)
    assert "4 tickets" in shown.stdout


def test_a_database_that_cannot_be_used_is_one_line(tmp_path: Path, run_cli) -> None:
    path = tmp_path / "shop.db"
    path.write_bytes(b"this is no database" * 100)
    for command in ("migrate", "init"):
        refused = run_cli("db", command, CSPROTO_DB=f"sqlite:///{path}")
        assert refused.returncode == 1
        assert "cannot be used" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_filling_brings_an_old_database_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    engine = open_engine(f"sqlite:///{path}")
    first_version(engine)
    demo.fill(engine, NOW)
    assert schema_of(engine) == SCHEMA
    assert open_database(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM ticket").fetchone() == (0,)
    assert os.environ["CSPROTO_DB"] != f"sqlite:///{path}"
