"""Defaults, and the `CSPROTO_*` environment variables that change them, read here and nowhere else."""

import os
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("CSPROTO_DATA", REPOSITORY / "data"))
MINI_MODEL = DATA / "mini-model"

SGLANG_VERSION = "0.5.23"  # the release every fact in this project was checked against

MAX_MESSAGE_CHARS = 2_000
MAX_TURNS = 60  # per conversation
MESSAGES_PER_MINUTE = 120  # of one customer, over all their conversations: far above what a person types, far below what wears a server down
TRIAGE_TOKENS = 1_000  # the grammar ends a triage long before
REPLY_TOKENS = 120
TOP_P = 0.8  # at a temperature above 0: draw from the likeliest tokens that hold this much of the probability, as Qwen2 ships (generation_config.json)
# Tokens to an event of a stream, each of which costs server and client a fraction of a millisecond: of a reply, which is shown by sentences, and of a
# triage, which nobody reads along.
READ_ALONG, UNREAD = 4, 16


def base_url() -> str | None:
    """URL of a running SGLang server, or None."""
    return os.environ.get("CSPROTO_BASE_URL") or None


def api_key() -> str | None:
    """Key of the server at `base_url()`. Keys come by environment or state file, never by argument."""
    return os.environ.get("CSPROTO_API_KEY") or None


def vllm_python() -> Path:
    """The interpreter of vLLM's own environment, for comparisons: `CSPROTO_VLLM_PYTHON`, else the one `make bench-setup` makes."""
    return Path(os.environ.get("CSPROTO_VLLM_PYTHON") or REPOSITORY / ".venv-vllm" / "bin" / "python")


def database_url() -> str:
    """SQLAlchemy URL of the shop: `CSPROTO_DB`, else a SQLite file in the user's state folder."""
    if url := os.environ.get("CSPROTO_DB"):
        return url
    folder = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "csproto"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'shop.db'}"


def state_file() -> Path:
    """Where `csproto serve` says how it is reached: `CSPROTO_STATE`, else the user's runtime folder."""
    if path := os.environ.get("CSPROTO_STATE"):
        return Path(path)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path(tempfile.gettempdir()) / f"csproto-{os.getuid()}"
    return folder / "csproto-server.json"


def results_folder() -> Path:
    """Where the notebooks keep what they measured: `CSPROTO_RESULTS`, else a folder that git ignores."""
    return Path(os.environ.get("CSPROTO_RESULTS", REPOSITORY / "build" / "results"))
