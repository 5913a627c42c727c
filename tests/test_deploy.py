"""The files in `deploy/` fit the program, each other, and the tools that will read them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from databases import cluster
from prometheus_client import generate_latest
from support import ROOT

from csproto import settings
from csproto.engine.server import free_port
from csproto.shop import demo
from csproto.shop.store import open_engine
from csproto.web.metrics import Metrics
from csproto.web.visitors import COOKIE

DEPLOY = ROOT / "deploy"
TOOLS = Path(sys.executable).parent
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: s for name, s in SERVICES.items() if s["image"].startswith("csproto")}
UNITS = sorted((DEPLOY / "systemd").iterdir())
KNOWN = {variable.name for variable in settings.VARIABLES}
OF_COMPOSE = {"POSTGRES_PASSWORD", "GRAFANA_PASSWORD"}  # in .env, for others than us
VERSION = re.compile(r"\d+\.\d+")  # postgres:17.6 is pinned, postgres:17 and :latest are not


def check(*words: str | Path) -> None:
    """Run a tool. It must have nothing to say against a file."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# -- each file by itself


@pytest.mark.parametrize("name", ["cpu.Dockerfile", "gpu.Dockerfile"])
def test_the_image_files_are_sound(name: str) -> None:
    check(TOOLS / "hadolint", DEPLOY / name)
    lines = (DEPLOY / name).read_text().splitlines()
    (base,) = (line.removeprefix("ARG BASE=") for line in lines if line.startswith("ARG BASE="))
    assert VERSION.search(base.partition(":")[2])
    assert any(line.startswith("USER 10001") for line in lines), "not as root"
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    if name.startswith("gpu"):
        assert settings.SGLANG_VERSION in base


def test_the_compose_file_follows_its_specification() -> None:
    tool = TOOLS / "check-jsonschema"
    check(tool, "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_every_image_has_a_version() -> None:
    for name, service in SERVICES.items():
        if name not in OURS:
            assert VERSION.search(service["image"].rpartition(":")[2]), name


def test_the_units_are_sound(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    program = TOOLS / "csproto"
    for unit in UNITS:
        text = unit.read_text().replace("/opt/csproto/.venv/bin/csproto", str(program))
        (tmp_path / unit.name).write_text(text)
    check(tool, "verify", *tmp_path.iterdir())


def test_the_proxies_are_sound(tmp_path: Path) -> None:
    """With the tools themselves if they are here. What they must say is checked anyway."""
    caddy, nginx = (DEPLOY / "Caddyfile").read_text(), (DEPLOY / "nginx.conf").read_text()
    assert "flush_interval -1" in caddy
    assert "proxy_buffering off" in nginx
    for text in (caddy, nginx):
        for process in ("web1:8000", "web2:8000"):
            assert process in text
        for path in ("metrics", "health", "livez", "readyz"):
            assert path in text, "not for strangers"
    for header in ("Host", "X-Forwarded-For", "X-Forwarded-Proto"):
        assert f"proxy_set_header {header} " in nginx
    if tool := shutil.which("caddy"):
        environment = os.environ | {"HOME": str(tmp_path)}
        words = [tool, "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr


# -- together with the program


def test_every_variable_is_one_of_the_settings() -> None:
    for name, service in OURS.items():
        assert set(service.get("environment", {})) <= KNOWN, name
    named = {
        variable
        for file in DEPLOY.rglob("*")
        if file.is_file()
        for variable in re.findall(r"CSPROTO_[A-Z_]*[A-Z]", file.read_text())
    }
    assert named <= KNOWN


def test_the_example_names_every_secret_that_compose_asks_for() -> None:
    asked = set(re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text()))
    given = set(re.findall(r"^([A-Z_]+)=", (DEPLOY / "example.env").read_text(), re.M))
    assert asked <= given
    assert given - KNOWN == OF_COMPOSE


def words_after(service: str, option: str) -> list[str]:
    command = SERVICES[service]["command"]
    return [command[n + 1] for n, word in enumerate(command[:-1]) if word == option]


def test_every_port_agrees() -> None:
    workers = [name for name in OURS if SERVICES[name]["command"][0] == "serve"]
    assert words_after("router", "--worker") == [
        f"http://{name}:{words_after(name, '--port')[0]}" for name in workers
    ]
    (port,), (figures,) = words_after("router", "--port"), words_after("router", "--metrics-port")
    pages = [name for name in OURS if SERVICES[name]["command"][0] == "web"]
    for name in pages:
        assert SERVICES[name]["environment"]["CSPROTO_BASE_URL"] == f"http://router:{port}"
    for name, service in OURS.items():
        assert f"127.0.0.1:{words_after(name, '--port')[0]}/" in service["healthcheck"]["test"][-1]
    asked = {
        target
        for job in yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    }
    reached = {f"{name}:{words_after(name, '--port')[0]}" for name in (*workers, *pages)}
    assert asked == reached | {f"router:{figures}"}


def test_what_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_file(), source
            else:
                assert source in COMPOSE["volumes"]


def test_our_containers_can_write_only_below_tmp() -> None:
    for name, service in OURS.items():
        assert service["read_only"] is True, name
        assert service["tmpfs"][0].startswith("/tmp:exec"), "the kernel is loaded from there"
        assert service["cap_drop"] == ["ALL"], name


def test_a_stop_has_the_time_that_the_settings_promise() -> None:
    drain = settings.DRAIN.number()
    for name in ("web1", "web2"):
        assert float(SERVICES[name]["environment"]["CSPROTO_DRAIN_SECONDS"]) == drain
        assert int(SERVICES[name]["stop_grace_period"].rstrip("s")) >= drain + 30
    (unit,) = (unit for unit in UNITS if unit.name.startswith("csproto-web"))
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit.read_text(), re.M)
    assert int(seconds) >= drain + 30


def expressions() -> Iterator[str]:
    """Every expression of the dashboard and of the alerts."""
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_every_figure_that_is_shown_exists(engine) -> None:
    metrics = Metrics()
    metrics.show_tickets(engine)
    text = generate_latest(metrics.registry).decode()
    there = set(re.findall(r"^# TYPE (csproto_\w+)", text, re.M))
    # These are added by the page.
    there |= {"csproto_answers_under_way", "csproto_waiting", "csproto_visitors"}
    named = {name for e in expressions() for name in re.findall(r"csproto_\w+", e)}
    assert len(named) > 10
    bare = {re.sub(r"_(bucket|count|sum)$", "", name) for name in named}
    assert bare <= there, bare - there


# -- as processes


class Started:
    """The services of our image as processes, with the commands and variables of compose."""

    def __init__(self, stack: ExitStack, database: str, folder: Path) -> None:
        self._stack, self._database, self._folder = stack, database, folder
        self.ports = {name: free_port() for name in OURS}
        self.figures = free_port()

    def start(self, name: str) -> None:
        service, port = SERVICES[name], str(self.ports[name])
        command = [self._placed(word) for word in service["command"]]
        command[command.index("--port") + 1] = port
        if "--metrics-port" in command:
            command[command.index("--metrics-port") + 1] = str(self.figures)
        secrets = {key: f"{key:x<40}" for key in ("CSPROTO_API_KEY", "CSPROTO_COOKIE_SECRETS")}
        secrets["CSPROTO_METRICS_TOKEN"] = "token"
        environment = {
            key: secrets.get(key, self._placed(str(value)))
            for key, value in service["environment"].items()
        }
        if "CSPROTO_DB" in environment:
            environment["CSPROTO_DB"] = self._database
            environment["CSPROTO_HOSTS"] = "localhost,127.0.0.1"
        environment["CSPROTO_STATE"] = str(self._folder / f"{name}.json")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CSPROTO_")}
        log = self._stack.enter_context((self._folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [TOOLS / "csproto", *command], env=inherited | environment, stderr=log, stdout=log
        )
        self._stack.callback(process.wait, 60)
        self._stack.callback(process.terminate)

    def _placed(self, word: str) -> str:
        """Return a word with the places of this machine in place of the containers' names."""
        for name, port in self.ports.items():
            word = re.sub(rf"http://{name}:\d+", f"http://127.0.0.1:{port}", word)
        return "127.0.0.1" if word == "0.0.0.0" else word

    def wait(self, name: str, path: str) -> None:
        deadline, url = time.monotonic() + 400, f"http://127.0.0.1:{self.ports[name]}{path}"
        while True:
            try:
                if httpx.get(url, timeout=10).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, (self._folder / f"{name}.log").read_text()
            time.sleep(0.5)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_what_compose_starts_works_together(tmp_path: Path) -> None:
    with ExitStack() as stack:
        database, _ = stack.enter_context(cluster())
        demo.fill(open_engine(database), datetime.now(UTC))
        started = Started(stack, database, tmp_path)
        for name in OURS:
            started.start(name)
        for name, path in (("router", "/readiness"), ("web1", "/readyz"), ("web2", "/readyz")):
            started.wait(name, path)
        one, other = (f"http://127.0.0.1:{started.ports[name]}" for name in ("web1", "web2"))
        # As the proxy asks: by HTTPS, for a customer behind it.
        asked = httpx.post(f"{one}/api/chat", json={"input": "cancel order 789012"}, timeout=60)
        assert asked.json()["waiting"]["action"] == "confirm_cancel", asked.text
        assert "Secure" in asked.headers["set-cookie"]
        cookie = {"Cookie": f"{COOKIE}={asked.cookies[COOKIE]}"}
        done = httpx.post(f"{other}/api/chat", json={"input": "yes"}, headers=cookie, timeout=60)
        assert done.json()["decisions"][0]["action"] == "cancelled", done.text

        # Every figure of the router and the pages that dashboard and alerts name is there.
        token = {"Authorization": "Bearer token"}
        figures = httpx.get(f"http://127.0.0.1:{started.figures}/metrics", timeout=10).text
        figures += httpx.get(f"{one}/metrics", headers=token, timeout=10).text
        named = {n for e in expressions() for n in re.findall(r"(?:csproto|smg|process)_\w+", e)}
        there = set(re.findall(r"^# TYPE (\w+)", figures, re.M))
        assert {re.sub(r"_(bucket|count|sum)$", "", n) for n in named} - there == set()
        engine = httpx.get(f"http://127.0.0.1:{started.ports['worker1']}/metrics", timeout=10)
        assert "sglang" in engine.text
