"""Defaults, and the environment variables `CSPROTO_*` that change them.

Only this module reads them, except CSPROTO_OWNER and CSPROTO_SERVER_*, which `Server`
passes to the process it starts. `python -m csproto.settings` writes the table of them
into `docs/operation.md`.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from csproto.errors import CsprotoError


class SettingInvalid(CsprotoError):
    """An environment variable has a value that cannot be used."""


@dataclass(frozen=True)
class Variable:
    """An environment variable.

    default: as it would be written in the environment; empty for none.
    meaning: for whoever runs the desk; one line of the table.
    shown: what the table shows as the default, where that is not a plain value.
    """

    name: str
    meaning: str
    default: str = ""
    shown: str = ""

    def __post_init__(self) -> None:
        VARIABLES.append(self)

    def text(self) -> str:
        """Return the value; empty if there is none."""
        return os.environ.get(self.name) or self.default

    def number(self) -> float:
        """Return the value as a number from 0 on. Raises SettingInvalid."""
        try:
            value = float(self.text())
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise SettingInvalid(
                f"{self.name} is {self.text()!r}, which is no number from 0 on. "
                f"Leave it out to get {self.default}."
            )
        return value

    def listed(self) -> list[str]:
        """Return the values between commas."""
        return [part.strip() for part in self.text().split(",") if part.strip()]

    def on(self) -> bool:
        """Return whether it is 1 rather than 0. Raises SettingInvalid for anything else."""
        if self.text() not in ("0", "1"):
            raise SettingInvalid(f"{self.name} is {self.text()!r}. It can be 0 or 1.")
        return self.text() == "1"


VARIABLES: list[Variable] = []

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(
    Variable(
        "CSPROTO_DATA",
        "Folder with wishes, shop rules, answers and the mini model",
        shown="`data/`",
    ).text()
    or REPOSITORY / "data"
)
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


BASE_URL = Variable(
    "CSPROTO_BASE_URL",
    "URL of the SGLang server",
    shown="the one that `csproto serve` runs, else one is started",
)
API_KEY = Variable("CSPROTO_API_KEY", "Key of the server at `CSPROTO_BASE_URL`")
DATABASE = Variable("CSPROTO_DB", "SQLAlchemy URL of the database", shown="a SQLite file")
STATE = Variable(
    "CSPROTO_STATE", "File in which `csproto serve` says how it is reached", shown="a private file"
)
LOG = Variable("CSPROTO_LOG", "`json` for one JSON object a line, `text` for people", "text")
HOSTS = Variable(
    "CSPROTO_HOSTS",
    "Names that the page answers to, with commas; `*` for any",
    shown="this machine's; any if `--host` names another address",
)
TRUSTED_PROXIES = Variable(
    "CSPROTO_TRUSTED_PROXIES",
    "Addresses or networks, with commas, whose `X-Forwarded-For` and `-Proto` are believed",
    shown="nobody",
)
SECURE_COOKIES = Variable(
    "CSPROTO_SECURE_COOKIES", "`1`: cookies only over HTTPS, whatever the proxy says", "0"
)
COOKIE_SECRETS = Variable(
    "CSPROTO_COOKIE_SECRETS",
    "Secrets that sign the cookies, with commas: the first signs, all are accepted",
    shown="a random one, which ends with the process",
)
SIGN_IN = Variable(
    "CSPROTO_SIGN_IN",
    "`module:function` that says who a visitor is (see `create_app`)",
    shown="visitors choose a demo customer",
)
PUBLIC_DOCS = Variable(
    "CSPROTO_PUBLIC_DOCS", "`0` hides `/docs`, `/openapi.json` and the versions in `/health`", "1"
)
METRICS_TOKEN = Variable(
    "CSPROTO_METRICS_TOKEN",
    "Bearer token of `/metrics`",
    shown="there is no `/metrics`",
)
STAFF_TOKEN = Variable(
    "CSPROTO_STAFF_TOKEN",
    "Token with which staff sign in at `/staff`, of 16 characters or more",
    shown="there is no `/staff`",
)
DRAIN = Variable(
    "CSPROTO_DRAIN_SECONDS", "Seconds in which answers may end after SIGTERM; then they stop", "20"
)
TURN_SECONDS = Variable(
    "CSPROTO_TURN_SECONDS", "Seconds after which an answer that is not there is given up", "60"
)
KEEP_DAYS = Variable(
    "CSPROTO_KEEP_DAYS",
    "Days for which `csproto db prune` keeps conversations, closed tickets and audit rows",
    "365",
)
LIMIT_BODY = Variable("CSPROTO_LIMIT_BODY", "Bytes of a request", "16384")
LIMIT_BODY_SECONDS = Variable(
    "CSPROTO_LIMIT_BODY_SECONDS", "Seconds in which a request must be sent", "10"
)
LIMIT_BURST = Variable(
    "CSPROTO_LIMIT_BURST",
    "Requests that one address may post at once; ten times as many GETs",
    "30",
)
LIMIT_PER_MINUTE = Variable(
    "CSPROTO_LIMIT_PER_MINUTE", "Posts of one address a minute; ten times as many GETs", "60"
)
LIMIT_RUNNING = Variable("CSPROTO_LIMIT_RUNNING", "Answers under way at the same time", "16")
LIMIT_WAITING = Variable(
    "CSPROTO_LIMIT_WAITING",
    "Messages that may wait for their turn while all answers are under way; 0: none waits",
    "64",
)
LIMIT_WAIT_SECONDS = Variable(
    "CSPROTO_LIMIT_WAIT_SECONDS", "Seconds after which a message that waits is refused", "20"
)
LIMIT_SESSIONS = Variable("CSPROTO_LIMIT_SESSIONS", "Visitors remembered at the same time", "500")
LIMIT_SESSION_AGE = Variable(
    "CSPROTO_LIMIT_SESSION_AGE", "Seconds for which a silent visitor is remembered", "7200"
)
RESULTS = Variable(
    "CSPROTO_RESULTS",
    "Folder in which the notebooks keep what they measured",
    shown="`build/results`",
)
VLLM_PYTHON = Variable(
    "CSPROTO_VLLM_PYTHON", "Python that has vLLM, for `csproto bench`", shown="`.venv-vllm`"
)


def base_url() -> str | None:
    """Return the URL of a running SGLang server (`CSPROTO_BASE_URL`), or None."""
    return BASE_URL.text() or None


def api_key() -> str | None:
    """Return the key of the server at `base_url()` (`CSPROTO_API_KEY`), or None.

    Keys are passed by environment variable or state file, never as an argument.
    """
    return API_KEY.text() or None


def vllm_python() -> Path:
    """Return the Python interpreter that has vLLM, for comparisons.

    It is `CSPROTO_VLLM_PYTHON`, or else that of the environment which
    `make bench-setup` makes.
    """
    return Path(VLLM_PYTHON.text() or REPOSITORY / ".venv-vllm" / "bin" / "python")


def database_url() -> str:
    """Return the SQLAlchemy URL of the shop's database.

    It is `CSPROTO_DB`, or else a SQLite file in the user's state folder.
    """
    if url := DATABASE.text():
        return url
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'shop.db'}"


def state_folder() -> Path:
    """Return the folder for what the user keeps: the demo shop, the history of chats."""
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "csproto"


def state_file() -> Path:
    """Return the file in which `csproto serve` says how its server is reached.

    It is `CSPROTO_STATE`, or else a file in the user's runtime folder.
    """
    if path := STATE.text():
        return Path(path)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path(tempfile.gettempdir()) / f"csproto-{os.getuid()}"
    return folder / "csproto-server.json"


def results_folder() -> Path:
    """Return the folder in which the notebooks keep what they measured.

    It is `CSPROTO_RESULTS`, or else a folder that git ignores.
    """
    return Path(RESULTS.text() or REPOSITORY / "build" / "results")


MARKS = ("<!-- settings -->", "<!-- end of settings -->")  # around the table in the document


def table() -> str:
    """Return the table of all variables in Markdown."""
    rows = [
        f"| `{v.name}` | {v.shown or (f'`{v.default}`' if v.default else 'none')} | {v.meaning} |"
        for v in VARIABLES
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def with_table(document: str) -> str:
    """Return a document with the table between its marks."""
    before, _, rest = document.partition(MARKS[0])
    return f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


if __name__ == "__main__":
    page = REPOSITORY / "docs" / "operation.md"
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
