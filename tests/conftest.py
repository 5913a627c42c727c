"""One real server with the shipped model for the whole run, and a fresh shop for each test.

With `pytest -n`, each worker has a server.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from databases import empty_database, postgres, postgres_database  # noqa: F401
from hypothesis import settings as examples
from sqlalchemy.engine import Engine
from support import NOW

from csproto.engine.cpu import make_torchvision_importable
from csproto.engine.server import Server
from csproto.shop import demo
from csproto.shop.store import open_engine

make_torchvision_importable()  # because tests import sglang themselves

# There is no deadline, because the time that an example takes says more about the
# machine than about the code. `make test-all` sets CSPROTO_LONG.
IS_LONG = os.environ.get("CSPROTO_LONG") == "1"
examples.register_profile("csproto", deadline=None, max_examples=2_000 if IS_LONG else 100)
examples.load_profile("csproto")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let workers take whole files, but of the notebooks one at a time, and those first.

    They take longest: if they began last, one worker would wait for the other.
    """
    for item in items:
        group = item.path.stem
        if group == "test_notebooks" and (named := re.search(r"\[(\d\d_[a-z_]+)", item.name)):
            group = named[1]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.path.stem != "test_notebooks")


@pytest.fixture(scope="session", autouse=True)
def apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests away from the user's own database and state file."""
    folder = tmp_path_factory.mktemp("user")
    os.environ["CSPROTO_STATE"] = str(folder / "state" / "server.json")
    os.environ["CSPROTO_DB"] = f"sqlite:///{folder / 'shop.db'}"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def server(apart: None) -> Iterator[tuple[str, str | None]]:
    """URL and key of the server: the one in CSPROTO_BASE_URL, or else one that is started here."""
    if url := os.environ.get("CSPROTO_BASE_URL"):
        yield url, os.environ.get("CSPROTO_API_KEY")
        return
    with Server() as running:
        os.environ["CSPROTO_BASE_URL"] = running.base_url
        os.environ["CSPROTO_API_KEY"] = running.api_key
        yield running.base_url, running.api_key
        del os.environ["CSPROTO_BASE_URL"], os.environ["CSPROTO_API_KEY"]


@pytest.fixture(scope="session")
def endpoint(server: tuple[str, str | None]):
    from csproto.engine.endpoint import Endpoint

    return Endpoint(*server)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """A freshly filled demo shop whose present is NOW."""
    engine = open_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    demo.fill(engine, NOW)
    return engine


@pytest.fixture
def make_assistant(endpoint, engine: Engine) -> Callable:
    """Makes a desk on `engine`.

    It uses the model server of the run, unless `on` gives another endpoint.
    """
    from csproto.opening import desk_on
    from csproto.shop.orders import OrderApi

    def make(faults=None, temperature: float = 0.0, on=None, **options):
        orders = OrderApi(engine, faults)
        return desk_on(
            on or endpoint, orders, clock=lambda: NOW, temperature=temperature, **options
        )

    return make


@pytest.fixture
def run_cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a `csproto` command as a user would."""

    def run(
        *words: str, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "csproto.cli", *words],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
