"""Defaults, and the environment variables `CSPROTO_*` that change them.

Only this module reads them, except CSPROTO_OWNER and CSPROTO_SERVER_*, which `Server`
passes to the process it starts.
"""

import os
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("CSPROTO_DATA", REPOSITORY / "data"))
MINI_MODEL = DATA / "mini-model"

SGLANG_VERSION = "0.5.23"  # every statement about SGLang was checked against this release

MAX_MESSAGE_CHARS = 2_000
MAX_TURNS = 60  # of one conversation

# Of one customer, over all their conversations. A person types far less than this, and
# it takes far more to overload a server.
MESSAGES_PER_MINUTE = 120

# At a temperature above 0: draw from the likeliest tokens that together have this share
# of the probability. This is what Qwen2 ships with (generation_config.json).
TOP_P = 0.8

# Tokens in one event of a stream that nobody reads along, such as a triage. Each event
# costs the server and the client a fraction of a millisecond.
UNREAD = 16


def base_url() -> str | None:
    """Return the URL of a running SGLang server (`CSPROTO_BASE_URL`), or None."""
    return os.environ.get("CSPROTO_BASE_URL") or None


def api_key() -> str | None:
    """Return the key of the server at `base_url()` (`CSPROTO_API_KEY`), or None.

    Keys are passed by environment variable or state file, never as an argument.
    """
    return os.environ.get("CSPROTO_API_KEY") or None


def vllm_python() -> Path:
    """Return the Python interpreter that has vLLM, for comparisons.

    It is `CSPROTO_VLLM_PYTHON`, or else that of the environment which
    `make bench-setup` makes.
    """
    python = os.environ.get("CSPROTO_VLLM_PYTHON")
    return Path(python or REPOSITORY / ".venv-vllm" / "bin" / "python")


def database_url() -> str:
    """Return the SQLAlchemy URL of the shop's database.

    It is `CSPROTO_DB`, or else a SQLite file in the user's state folder.
    """
    if url := os.environ.get("CSPROTO_DB"):
        return url
    folder = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "csproto"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'shop.db'}"


def state_file() -> Path:
    """Return the file in which `csproto serve` says how its server is reached.

    It is `CSPROTO_STATE`, or else a file in the user's runtime folder.
    """
    if path := os.environ.get("CSPROTO_STATE"):
        return Path(path)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path(tempfile.gettempdir()) / f"csproto-{os.getuid()}"
    return folder / "csproto-server.json"


def results_folder() -> Path:
    """Return the folder in which the notebooks keep what they measured.

    It is `CSPROTO_RESULTS`, or else a folder that git ignores.
    """
    return Path(os.environ.get("CSPROTO_RESULTS", REPOSITORY / "build" / "results"))
