"""The servers of a comparison, all with the same weights, dtype, context and KV tokens.

Only the one that is measured is awake.
"""

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import urllib3

from csproto import settings
from csproto.engine.hardware import gpu_name
from csproto.engine.running import read_state
from csproto.engine.server import Progress, Server, ServerFailed, bearer
from csproto.errors import CsprotoError
from csproto.measure.bench.machine import processes

KV_TOKENS = 32_768
# Tokens of a block of vLLM's cache: the smallest number that its CPU kernels take, so that
# the most is reused. Its default is 128.
BLOCK = 32
# Tokens at most; the prompt that is built from the wish files alone has 4,667 of Qwen's.
CONTEXT = 16_384
DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")
ENGINES = ("sglang", "sglang-no-radix", "vllm")


class Sglang(Server):
    """SGLang as `csproto serve` runs it."""

    def command(self) -> list[str]:
        """Return the command line of a server that dies with this process."""
        python, _, *rest = super().command()
        return [python, str(DIE_WITH_PARENT), *rest]


class Vllm(Server):
    """vLLM's OpenAI server in its own environment, with its prefix cache on (the default)."""

    product, ready_path = "vLLM", "/health"

    def command(self) -> list[str]:
        """Return the command line.

        Only the dev mode has `/reset_prefix_cache`. The logs are off because they cost
        time.
        """
        environment = {
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            # What is compiled here is used by every later start.
            "VLLM_CACHE_ROOT": str(settings.REPOSITORY / "build" / "vllm"),
        }
        flags = {
            "model": self.model,
            "served-model-name": self.served_name,
            "host": "127.0.0.1",
            "port": self.port,
            "dtype": "bfloat16",
            "max-model-len": context_of(self.model),
            "block-size": BLOCK,
            "num-gpu-blocks-override": KV_TOKENS // BLOCK,
            "kv-cache-memory-bytes": 2**30,  # checked before the override above
            "generation-config": "vllm",
            "stream-interval": settings.UNREAD,  # what the desk asks SGLang for
            "uvicorn-log-level": "warning",
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        module = [
            str(settings.vllm_python()),
            str(DIE_WITH_PARENT),
            "vllm.entrypoints.openai.api_server",
        ]
        switches = ["--enable-prompt-tokens-details", "--disable-log-stats"]
        return [
            "env",
            *(f"{k}={v}" for k, v in environment.items()),
            *module,
            *words,
            *switches,
            *self.extra,
        ]


def context_of(model: str) -> int:
    """Return the tokens of context in a comparison: CONTEXT, or fewer if the model takes fewer."""
    config = Path(model) / "config.json"
    if not config.is_file():
        return CONTEXT
    return min(CONTEXT, json.loads(config.read_text())["max_position_embeddings"])


@dataclass
class Engine:
    """One server of the comparison. `server` is None if it was running already."""

    name: str
    base_url: str
    api_key: str | None = None
    admin_key: str | None = None
    server: Server | None = None

    def still(self) -> None:
        """Stop every process of the server until `wake`: polling would take a core from others."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let the server go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, sign: signal.Signals) -> None:
        if self.server and self.server.process:
            os.killpg(self.server.process.pid, sign)

    def flush(self) -> None:
        """Empty the prefix cache, after requests that are just ending. Raises ServerFailed."""
        path = "/reset_prefix_cache" if self.name == "vllm" else "/flush_cache"
        # A connection kept from before the server was stopped may be closed the moment it wakes.
        headers = bearer(self.admin_key or self.api_key) | {"Connection": "close"}
        for _ in range(50):
            answer = urllib3.request("POST", self.base_url + path, headers=headers, timeout=60)
            if answer.status == 200 and b'"success":false' not in answer.data:
                return
            time.sleep(0.2)
        raise ServerFailed(
            f"{self.name} did not empty its prefix cache ({answer.status}: "
            f"{answer.data[:200].decode()}). Does another client use it, or is its admin key "
            "another one?"
        )

    def processes(self) -> list[psutil.Process]:
        """Return the server's processes; none if it was not started here."""
        return processes(self.server) if self.server else []

    def idle_share(self, seconds: float = 2.0) -> float:
        """Return the share of one core that the server takes while it has nothing to do."""

        def used() -> float:
            return sum(t.user + t.system for t in (p.cpu_times() for p in self.processes()))

        before = used()
        time.sleep(seconds)
        return (used() - before) / seconds


def attach(name: str, base_url: str) -> Engine:
    """Return a server that is running already.

    Its keys come from the state file of `csproto serve`, or else from CSPROTO_API_KEY.
    """
    url = base_url.rstrip("/")
    state = read_state()
    if state and state["base_url"] == url:
        return Engine(name, url, state["api_key"], state["admin_key"])
    return Engine(name, url, settings.api_key(), settings.api_key())


@contextmanager
def running(
    names: Sequence[str], urls: Mapping[str, str], model: str, say: Progress | None = None
) -> Iterator[dict[str, Engine]]:
    """Yield the engines by name: found by URL, or started one after the other.

    Those that were started are asleep. Raises ServerFailed.
    """
    check(names, urls)
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name in names:
            if name in urls:
                engines[name] = attach(name, urls[name])
                continue
            server = _server(name, model)
            engine = Engine(name, server.base_url, server.api_key, server.admin_key, server)
            stack.callback(_stop, engine)
            server.start().wait_ready(timeout=300, progress=say)
            engine.still()
            engines[name] = engine
        yield engines


def check(names: Sequence[str], urls: Mapping[str, str]) -> None:
    """Raise CsprotoError if something is missing, before anything is started."""
    starting = [name for name in names if name not in urls]
    if starting and gpu_name():
        raise CsprotoError(
            "On a GPU the servers are started by hand, because two of them must share its memory, "
            f"and named by URL (missing: {', '.join(starting)}). docs/performance.md has the "
            "commands."
        )
    if "vllm" in starting and not settings.vllm_python().exists():
        raise CsprotoError(
            f"The arms on vLLM need an environment of their own, and {settings.vllm_python()} does "
            "not exist. Run `make bench-setup`, or name arms without vLLM: --arms csproto,no-radix"
        )


def _server(name: str, model: str) -> Server:
    if name == "vllm":
        return Vllm(model)
    off = ["--disable-radix-cache"] if name == "sglang-no-radix" else []
    size = ["--context-length", str(context_of(model)), "--max-total-tokens", str(KV_TOKENS)]
    return Sglang(model, extra=[*off, *size])


def _stop(engine: Engine) -> None:
    engine.wake()
    assert engine.server
    engine.server.stop()
