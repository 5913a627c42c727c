"""Several SGLang servers behind one `sglang-router`, with settings that were measured.

`Router` starts the router, `Fleet` also the servers behind it. Run as a module, this is
the process that a `Router` starts: it keeps the key out of the process list, and dies
with its owner.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from csproto import settings
from csproto.engine.hardware import gpus, torch_cuda
from csproto.engine.owner import die_with_owner
from csproto.engine.server import ROUTER_READY, Progress, Server, ServerFailed, bearer, free_port
from csproto.errors import CsprotoError

KEY = "CSPROTO_SERVER_API_KEY"
AGAIN = 5.0  # seconds before a worker that has ended is started again
# Measured with two workers on two cores; `docs/operation.md` has the figures.
FLAGS = (
    # A conversation goes where its prefix is, by its routing key. A new one goes to the
    # worker with the fewest requests. `cache_aware`, the default, guesses by the text,
    # and sends everybody who has the same prompt to one worker.
    *("--policy", "manual", "--assignment-mode", "min_load"),
    # A worker that fails three times in a row gets nothing for ten seconds. As shipped,
    # it is ten times, and a minute.
    *("--cb-failure-threshold", "3", "--cb-timeout-duration-secs", "10"),
    *("--cb-success-threshold", "1", "--cb-window-duration-secs", "30"),
    # A worker that hangs is found within ten seconds. As shipped, it takes three minutes.
    *("--health-check-interval-secs", "3", "--health-check-timeout-secs", "3"),
    *("--health-failure-threshold", "2", "--health-success-threshold", "1"),
    # The next worker is tried at once, and each only a few times: a customer waits.
    *("--retry-max-retries", "3", "--retry-initial-backoff-ms", "50"),
    *("--retry-max-backoff-ms", "1000", "--worker-startup-check-interval", "1"),
    *("--request-timeout-secs", "600", "--shutdown-grace-period-secs", "30"),
    *("--log-level", "warn"),
)
logger = logging.getLogger(__name__)


class Router(Server):
    """A router process in front of servers that all have one key.

    workers: the URLs of the servers. metrics: host and port of its figures for
        Prometheus. The other parameters are those of `Server`.
    """

    product, ready_path = "router", ROUTER_READY

    def __init__(
        self,
        workers: Sequence[str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        metrics: tuple[str, int] | None = None,
        extra: Sequence[str] = (),
        api_key: str | None = None,
        served_name: str = "router",
        log: Path | None = None,
    ) -> None:
        flags = ["--host", host, *extra]
        super().__init__(
            "router", port=port, extra=flags, api_key=api_key, served_name=served_name, log=log
        )
        self.workers = list(workers)
        self._metrics = metrics or ("127.0.0.1", free_port())

    def command(self) -> list[str]:
        """Return the command line. The key is not in it; the environment has it."""
        host, port = self._metrics
        words = [sys.executable, "-m", "csproto.engine.router", "--worker-urls", *self.workers]
        words += ["--port", str(self.port), "--prometheus-host", host]
        return [*words, "--prometheus-port", str(port), *FLAGS, *self.extra]

    def _check_model(self) -> None:
        """A router has none."""

    def add(self, worker: str) -> None:
        """Let another server take part. Raises CsprotoError if the router does not take it."""
        self._ask("POST", "/workers", {"url": worker, "api_key": self.api_key})

    def states(self) -> dict[str, bool]:
        """Return the workers by URL, and whether the router finds each of them well."""
        found = self._ask("GET", "/workers")["workers"]
        return {worker["url"]: bool(worker["is_healthy"]) for worker in found}

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, list[dict[str, str]]]:
        import urllib3

        try:
            answer = urllib3.request(
                method,
                self.base_url + path,
                json=body,
                headers=bearer(self.api_key),
                timeout=5,
                retries=False,
            )
            if answer.status < 300:
                return dict(answer.json())
            reason = f"it answers with the status {answer.status}"
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            reason = str(error)
        raise CsprotoError(f"The router at {self.base_url} cannot be asked: {reason}.")


class Fleet:
    """Workers and a router on this machine, as one server. Same methods as a `Server`.

    workers: how many servers. With as many GPUs, each has one; else they share what
        there is. The other parameters are those of `Server`.
    """

    def __init__(
        self,
        model: str | Path = settings.MINI_MODEL,
        *,
        workers: int = 2,
        port: int = 0,
        extra: Sequence[str] = (),
        api_key: str | None = None,
    ) -> None:
        first = Server(model, extra=[*extra, *_gpu(0, workers)], api_key=api_key)
        self.servers = [first]
        for place in range(1, workers):
            flags = [*extra, *_gpu(place, workers)]
            self.servers.append(Server(model, extra=flags, api_key=first.api_key))
        self.router = Router(
            [server.base_url for server in self.servers],
            port=port,
            api_key=first.api_key,
            served_name=first.served_name,
        )
        self.served_name, self.log = first.served_name, self.router.log
        self.base_url, self.api_key = self.router.base_url, first.api_key
        self.admin_key = first.admin_key
        self.startup_seconds: float | None = None
        self._ended_at: dict[int, float] = {}

    def start(self) -> "Fleet":
        """Start all processes. Raises ServerFailed."""
        for server in [*self.servers, self.router]:
            server.start()
        return self

    def wait_ready(self, timeout: float = 180.0, progress: Progress | None = None) -> "Fleet":
        """Wait until all workers answer and the router knows them. Raises ServerFailed."""
        began = time.monotonic()
        for server in [*self.servers, self.router]:
            server.wait_ready(timeout, progress)
        while not all(self.router.states().get(s.base_url) for s in self.servers):
            if time.monotonic() - began > timeout + 60:
                raise ServerFailed(
                    "The router does not find all workers well. Last lines of its log "
                    f"({self.router.log}):\n{self.router.log_tail()}"
                )
            time.sleep(0.2)
        self.startup_seconds = time.monotonic() - began
        return self

    def watch(self) -> None:
        """Wait until the router ends. A worker that ends is started again.

        Raises ServerFailed when the router has ended.
        """
        process = self.router.process
        assert process is not None, "start() first"
        while process.poll() is None:
            time.sleep(0.5)
            for server in self.servers:
                self._start_again(server)
        raise ServerFailed(
            f"The router ended by itself (exit code {process.returncode}). Last lines of its log "
            f"({self.router.log}):\n{self.router.log_tail()}"
        )

    def _start_again(self, server: Server) -> None:
        """Start a worker that has ended, AGAIN seconds after that."""
        if server.process is None or server.process.poll() is None:
            return
        ended_at = self._ended_at.setdefault(server.port, time.monotonic())
        if time.monotonic() - ended_at < AGAIN:
            return
        logger.warning(
            "the worker at %s ended (exit code %s) and is started again; its log is %s",
            *(server.base_url, server.process.returncode, server.log),
        )
        del self._ended_at[server.port]
        server.start()

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the router's log."""
        return self.router.log_tail(lines)

    def stop(self) -> None:
        """End the router, then the workers."""
        for server in [self.router, *self.servers]:
            server.stop()


def _gpu(place: int, workers: int) -> list[str]:
    """Return the flags that give a worker a GPU of its own, if there are enough."""
    return ["--base-gpu-id", str(place)] if torch_cuda() and len(gpus()) >= workers > 1 else []


def exec_router(
    workers: Sequence[str],
    key: str,
    *,
    host: str,
    port: int,
    metrics_port: int,
    extra: Sequence[str] = (),
) -> NoReturn:
    """Become the process of a router, so that signals and exit codes are its own."""
    router = Router(
        workers, host=host, port=port, metrics=(host, metrics_port), extra=extra, api_key=key
    )
    words = router.command()
    os.environ[KEY] = key
    os.execv(words[0], words)


def main() -> None:
    """Run the router with the arguments given and the key from the environment."""
    die_with_owner()
    arguments = sys.argv[1:]
    if key := os.environ.pop(KEY, ""):
        arguments.append(f"--api-key={key}")  # one word, because a key may begin with a hyphen
    # Not `sglang_router.launch_router`, which imports all of sglang and torch for nothing.
    from sglang_router.router import Router as RustRouter
    from sglang_router.router_args import RouterArgs

    parser = argparse.ArgumentParser(prog="csproto router", allow_abbrev=False)
    RouterArgs.add_cli_args(parser, use_router_prefix=False)
    parsed = RouterArgs.from_cli_args(parser.parse_args(arguments), use_router_prefix=False)
    RustRouter.from_args(parsed).start()


if __name__ == "__main__":
    main()
