"""The log lines of a process, and the number of the request that each of them belongs to."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from csproto import settings

# The request of the web page that this code works for; empty outside of requests. Log
# lines, audit rows and the calls of the engine carry it.
REQUEST: ContextVar[str] = ContextVar("request", default="")

TEXT = "%(asctime)s %(levelname)s %(name)s [%(request)s] %(message)s"


def request_number() -> str:
    """Return the number of the request that this code works for, or an empty text."""
    return REQUEST.get()


def configure() -> None:
    """Send the lines of csproto from INFO on, and of all others from WARNING on, to stderr.

    Their form is that of `CSPROTO_LOG`. Raises SettingInvalid.
    """
    form = settings.LOG.text()
    if form not in ("text", "json"):
        raise settings.SettingInvalid(
            f"{settings.LOG.name} is {form!r}. It can be `text`, for people, or `json`."
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_with_request)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("csproto").setLevel(logging.INFO)


def _with_request(record: logging.LogRecord) -> bool:
    record.request = REQUEST.get() or "-"
    return True


class JsonLines(logging.Formatter):
    """One JSON object for each record, so that no text can look like another line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "request": getattr(record, "request", "-"),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
