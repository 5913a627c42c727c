"""What the documents for operators say is so: the table, the commands, the names of tests."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import text
from support import NOW, ROOT

from csproto import settings
from csproto.shop import demo
from csproto.shop.store import open_engine

OPERATION = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_up_to_date() -> None:
    assert settings.with_table(OPERATION) == OPERATION, "run `python -m csproto.settings`"


def test_every_variable_that_the_code_or_a_document_names_is_in_the_table() -> None:
    """But for those between a process and the server that it starts, and those of the tests."""
    known = {variable.name for variable in settings.VARIABLES}
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    named = {
        name
        for file in files
        for name in re.findall(r"CSPROTO_[A-Z_]*[A-Z]", file.read_text(encoding="utf-8"))
    }
    inner = {"CSPROTO_OWNER", "CSPROTO_SERVER_API_KEY", "CSPROTO_SERVER_ADMIN_KEY"}
    assert named - inner - {"CSPROTO_SERVER", "CSPROTO_REAL_MODEL"} <= known
    assert known <= named


def test_each_line_about_security_names_tests_that_exist() -> None:
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    }
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= there, set(named) - there


def command(kind: str, database: str) -> str:
    """The command of the table, for `backup` or `restore`."""
    row = next(line for line in OPERATION.splitlines() if line.startswith(f"| {kind} |"))
    return row.split("|")[{"SQLite": 2, "PostgreSQL": 3}[database]].strip().strip("`")


@pytest.mark.parametrize("empty_database", ["sqlite", "postgresql"], indirect=True)
def test_a_backup_can_be_restored(empty_database: str, tmp_path: Path, run_cli) -> None:
    engine = open_engine(empty_database)
    database = {"sqlite": "SQLite"}.get(engine.dialect.name, "PostgreSQL")
    backup, restore = command("backup", database), command("restore", database)
    for words in (backup, restore):
        if not shutil.which(words.split()[0]):
            pytest.skip(f"{words.split()[0]} is not installed")
    names = {
        "FILE": str(engine.url.database),
        "URL": empty_database.replace("+psycopg", ""),
        "COPY": str(tmp_path / "copy"),
    }
    demo.fill(engine, NOW)
    everybody = text("SELECT id, name FROM customer ORDER BY id")
    with engine.begin() as connection:  # the page has the database open meanwhile
        before = connection.execute(everybody).all()
        run(backup, names)
    with engine.begin() as connection:
        connection.execute(text("UPDATE customer SET name = 'changed'"))
    engine.dispose()
    run(restore, names)
    with engine.connect() as connection:
        assert connection.execute(everybody).all() == before
    assert run_cli("db", "migrate", CSPROTO_DB=empty_database).returncode == 0


def run(words: str, names: dict[str, str]) -> None:
    done = subprocess.run(
        words, shell=True, env=os.environ | names, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
