"""Real headless Chromium, a real JupyterLab and the real page, offline but for loopback.

JupyterLab is started as its own browser tests start it, which turns authentication off.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from support import NOW, ROOT
from talking import open_chat

from csproto.engine.server import free_port

SCREENSHOTS = ROOT / "build" / "screenshots"
COLOURS = 128
BINARIES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync
    --disable-dev-shm-usage""".split()
# The chat stands in a shadow root, where the page's own `querySelector` does not reach.
CHAT = "window.chat = () => document.querySelector('.csp-host')?.shadowRoot ?? document"
CONFIG = """
from jupyterlab.galata import configure_jupyter_server
configure_jupyter_server(c)
c.ServerApp.allow_root = True
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port = {port}
c.ServerApp.root_dir = {root!r}
c.LabServerApp.user_settings_dir = {settings!r}
"""


class Gate:
    """A way to the engine that can be shut: its users see the engine go and come back."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._pairs: set[socket.socket] = set()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.open()

    def open(self) -> None:
        self._door = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._admit, args=(self._door,), daemon=True).start()

    def shut(self) -> None:
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for end in list(self._pairs):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _admit(self, door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near = door.accept()[0]
                far = socket.create_connection(self._target)
                self._pairs |= {near, far}
                for a, b in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(a, b), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def gate(server: tuple[str, str | None]) -> Iterator[Gate]:
    gate = Gate(server[0])
    yield gate
    gate.shut()


@pytest.fixture(
    scope="module"
)  # Playwright keeps an event loop running in this thread, which other tests could not bear
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = found_chromium(playwright.chromium.executable_path)
        if not chromium:
            pytest.skip("no Chromium: `make browser` installs it, or name one in CHROMIUM")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def found_chromium(of_playwright: str) -> str | None:
    """The one named in CHROMIUM, else the system's, else the one `playwright install` left."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BINARIES)), None)
    return found or (of_playwright if Path(of_playwright).exists() else None)


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures are kept as artifacts."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS


@pytest.fixture
def keep_screen(screenshots: Path) -> Callable[[bytes, str], Path]:
    """Write a picture that the documentation shows, with few colours, which makes it small.

    It goes to `docs/screens` if CSPROTO_SCREENS is 1.
    """

    def keep(png: bytes, name: str) -> Path:
        kept = os.environ.get("CSPROTO_SCREENS") == "1"
        folder = ROOT / "docs" / "screens" if kept else screenshots
        folder.mkdir(parents=True, exist_ok=True)
        picture = (
            Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
        )
        picture.save(folder / name, optimize=True)
        return folder / name

    return keep


@pytest.fixture
def new_page(browser) -> Iterator[Callable[..., Any]]:
    """A page in a context of its own; it notes errors, and requests that leave the machine."""
    contexts = []

    def make(viewport: tuple[int, int] = (1000, 800), **options: Any) -> Any:
        context = browser.new_context(
            viewport={"width": viewport[0], "height": viewport[1]}, **options
        )
        contexts.append(context)
        context.add_init_script(CHAT)
        page = context.new_page()
        page.set_default_timeout(120_000)  # a busy machine takes half a minute to draw a page
        page.failures, page.external = [], []
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        page.on(
            "console",
            lambda message: (
                page.failures.append(message.text) if "Content Security" in message.text else None
            ),
        )
        page.on(
            "request",
            lambda request: page.external.append(request.url) if is_external(request.url) else None,
        )
        return page

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """An audit with axe-core from npm; a machine without npm or its registry skips it."""
    if not shutil.which("npm"):
        pytest.skip("no npm to fetch axe-core with: `make browser` installs it")
    folder = tmp_path_factory.mktemp("axe")
    try:
        command = ["npm", "pack", "--silent", "axe-core@4"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"axe-core cannot be fetched from npm ({type(error).__name__})")
    subprocess.run(["tar", "xzf", next(folder.glob("*.tgz")).name], cwd=folder, check=True)
    script = (folder / "package" / "axe.min.js").read_text()
    run = """async (selector) => (await axe.run(selector)).violations.map(
        (found) => [found.id, found.nodes.map((node) => node.html.slice(0, 120))])"""

    def audit(page: Any, selector: str = "html") -> None:
        page.evaluate(script)
        found = page.evaluate(run, selector)
        assert not found, json.dumps(found, indent=1)

    return audit


def is_external(url: str) -> bool:
    return (
        urlsplit(url).scheme in ("http", "https", "ws", "wss")
        and urlsplit(url).hostname != "127.0.0.1"
    )


@pytest.fixture
def site(gate: Gate, server, engine) -> Iterator[SimpleNamespace]:
    """The real page over the real desk, in this process: a test can slow the orders down."""
    from csproto.engine.endpoint import Endpoint
    from csproto.web.visitors import Visitors

    with page_over(Endpoint(gate.url, server[1]), engine) as (url, app):
        assistant = app.state.site.assistant

        @contextmanager
        def orders_held() -> Iterator[None]:
            """Let the order system wait until it is let go, so that no test races an answer."""
            faults, go_on = assistant.orders.faults, threading.Event()
            before = faults.before
            faults.before = lambda patience: (go_on.wait(100), before(patience))
            try:
                yield
            finally:
                go_on.set()
                faults.before = before

        def restarted() -> None:
            """Forget every visitor and the key of the cookies, as a restarted server has."""
            app.state.site.visitors = Visitors(app.state.site.limits)

        held = {"orders_held": orders_held, "restarted": restarted}
        yield SimpleNamespace(url=url, assistant=assistant, engine=engine, gate=gate, **held)


@contextmanager
def page_over(endpoint: Any, engine: Any, **options: Any) -> Iterator[tuple[str, Any]]:
    """Serve the page; its URL, and the application."""
    import uvicorn

    from csproto.opening import desk_on
    from csproto.shop.orders import Faults, OrderApi
    from csproto.web.app import create_app
    from csproto.web.limits import Limits

    orders = OrderApi(engine, Faults(), budget=120.0)
    assistant = desk_on(endpoint, orders, clock=lambda: NOW, messages_per_minute=None)
    app = create_app(assistant, limits=Limits(burst=10_000, per_minute=10_000), **options)
    port = free_port()
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}", app
    running.should_exit = running.force_exit = True
    thread.join(10)


@pytest.fixture
def page(site, new_page) -> Iterator[Any]:
    """The page as a builder sees it."""
    yield from opened(site, new_page, "builder")


@pytest.fixture
def customers_page(site, new_page) -> Iterator[Any]:
    """The page as it opens."""
    yield from opened(site, new_page, "")


def opened(site: Any, new_page: Any, face: str) -> Iterator[Any]:
    page = new_page(locale="en-GB")
    open_chat(page, site.url, face)
    yield page
    assert not page.external, page.external
    assert not page.failures, page.failures


@pytest.fixture
def serve_page() -> Any:
    return page_over


@pytest.fixture(scope="module")
def lab(
    tmp_path_factory: pytest.TempPathFactory, browser, gate: Gate, server
) -> Iterator[SimpleNamespace]:
    """JupyterLab whose kernels reach the engine through the gate."""
    folder = tmp_path_factory.mktemp("lab")
    root, settings, port = folder / "root", folder / "settings", free_port()
    notifications = settings / "@jupyterlab" / "apputils-extension"
    for path in (root, notifications):
        path.mkdir(parents=True)
    (notifications / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    config = folder / "jupyter_server_config.py"
    config.write_text(CONFIG.format(port=port, root=str(root), settings=str(settings)))
    url = f"http://127.0.0.1:{port}"
    with jupyter_process(
        ["jupyterlab", "--config", str(config)], f"{url}/api/status", folder, gate, server[1]
    ):
        yield SimpleNamespace(url=url, root=root, gate=gate)


@pytest.fixture
def voila(tmp_path: Path, browser, gate: Gate, server) -> Iterator[Callable[[str], str]]:
    """Serve a notebook with Voila; returns the URL."""
    with ExitStack() as running:

        def serve(notebook: Path) -> str:
            shutil.copy(notebook, tmp_path / "voila.ipynb")
            port = free_port()
            words = [
                "voila",
                str(tmp_path / "voila.ipynb"),
                "--no-browser",
                f"--port={port}",
                "--Voila.ip=127.0.0.1",
            ]
            url = f"http://127.0.0.1:{port}"
            running.enter_context(
                jupyter_process(words, f"{url}/favicon.ico", tmp_path, gate, server[1])
            )
            return url

        yield serve


@contextmanager
def jupyter_process(
    words: list[str], ready_url: str, folder: Path, gate: Gate, key: str | None
) -> Iterator[None]:
    """A Jupyter application whose kernels reach the engine through the gate."""
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        "CSPROTO_BASE_URL": gate.url,
        "CSPROTO_DB": f"sqlite:///{folder / 'shop.db'}",
    }
    if key:
        environment["CSPROTO_API_KEY"] = key
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", *words]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while not reachable(ready_url):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, f"{words[0]} was not ready after 120 s"
            time.sleep(0.25)
        yield
    finally:
        process.terminate()
        process.wait(20)


def reachable(url: str) -> bool:
    """Whether anybody answers, if only that there is no such page."""
    try:
        urllib.request.urlopen(url, timeout=2)
    except OSError as error:
        return isinstance(error, urllib.error.HTTPError)
    return True


@pytest.fixture
def open_notebook(lab, new_page) -> Iterator[Callable[..., Any]]:
    """Open a notebook with these cells and run them all."""
    import nbformat

    def open_(name: str, *cells: str, theme: str = "JupyterLab Light", **options: Any) -> Any:
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
            },
        )
        nbformat.write(notebook, lab.root / f"{name}.ipynb")
        page = new_page(**options)
        page.set_default_timeout(120_000)
        page.goto(f"{lab.url}/lab/tree/{name}.ipynb?reset")
        wait_for_kernel(page)
        run = "t => window.jupyterapp.commands.execute('apputils:change-theme', {theme: t})"
        page.evaluate(run, theme)
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        return page

    yield open_
    for kernel in json.load(urllib.request.urlopen(f"{lab.url}/api/kernels")):
        urllib.request.urlopen(
            urllib.request.Request(f"{lab.url}/api/kernels/{kernel['id']}", method="DELETE")
        )


@pytest.fixture
def kernel_idle() -> Callable[[Any], None]:
    return wait_for_kernel


def wait_for_kernel(page: Any) -> None:
    page.wait_for_function(
        """() => {
            const { context } = window.jupyterapp?.shell?.currentWidget ?? {};
            return context?.sessionContext?.session?.kernel?.status === 'idle';
        }"""
    )
