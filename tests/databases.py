"""Databases for the tests that run on SQLite and on PostgreSQL.

PostgreSQL is a private server, from Debian's package if that is installed.
"""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from csproto.shop.store import open_engine


def server_binaries() -> Path | None:
    """Return the folder of PostgreSQL's own programs, or None."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


def unprivileged() -> tuple[list[str], pwd.struct_passwd | None]:
    """Return how to run a command as a user who may run PostgreSQL, which refuses to be root.

    Returns the words before the command, and the user if it is another one. Skips the
    test if there is no such user.
    """
    if os.getuid() != 0:
        return [], None
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        if shutil.which("setpriv"):
            ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
            return ["setpriv", *ids, "--clear-groups"], user
        if shutil.which("runuser"):
            return ["runuser", "-u", name, "--"], user
    pytest.skip(
        "PostgreSQL refuses to run as root, "
        "and there is neither another user with setpriv nor runuser"
    )


@contextmanager
def cluster() -> Iterator[tuple[str, subprocess.Popen]]:
    """Yield URL and process of a private PostgreSQL server.

    It listens only on a socket in its own folder.
    """
    binaries = server_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server (initdb, postgres) is installed")
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    prefix, user = unprivileged()
    # Not in tmp_path: the other user cannot enter the folders above it.
    folder = Path(tempfile.mkdtemp(prefix="csproto-pg-"))
    try:
        if user:
            os.chown(folder, user.pw_uid, user.pw_gid)
        initdb = [*prefix, binaries / "initdb", "-D", folder / "data", "-U", "shop"]
        initdb += ["--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder)
        postgres = [*prefix, binaries / "postgres", "-D", folder / "data", "-k", folder]
        postgres += ["-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen(postgres, cwd=folder, stderr=subprocess.DEVNULL)
        try:
            url = f"postgresql+psycopg://shop@/postgres?host={folder}"
            wait_until_it_answers(url, server)
            yield url, server
        finally:
            server.send_signal(signal.SIGQUIT)  # stops at once; none of the data is needed
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of the PostgreSQL server that tests share."""
    with cluster() as (url, _):
        yield url


def wait_until_it_answers(url: str, server: subprocess.Popen) -> None:
    engine = open_engine(url)
    for _ in range(300):
        try:
            engine.connect().close()
            break
        except Exception:
            assert server.poll() is None, "PostgreSQL has stopped"
            time.sleep(0.1)
    else:
        pytest.fail("PostgreSQL did not answer in 30 seconds")
    engine.dispose()


@pytest.fixture(scope="session")
def postgres_database(postgres: str) -> Callable[[], str]:
    """Makes an empty database on the PostgreSQL server, and returns its URL."""
    numbers = itertools.count()

    def make() -> str:
        name = f"shop{next(numbers)}"
        engine = open_engine(postgres)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return postgres.replace("/postgres?", f"/{name}?")

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, on SQLite and on PostgreSQL in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return request.getfixturevalue("postgres_database")()
