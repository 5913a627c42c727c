"""The truth about the engine: it counts as healthy only when it has just generated a token."""

import platform
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import urllib3

from csproto.assistant import Assistant
from csproto.panel.engine import engine_state
from csproto.server import bearer

KEPT = 5.0  # seconds an answer of the engine is believed
PATIENCE = 10.0  # seconds an engine may take for one token


class Health:
    """Asks SGLang's own `/health`, which generates a token; several askers at once share one question."""

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant
        self._lock = threading.Lock()
        self._known: tuple[float, str] = (float("-inf"), "")

    def reason(self) -> str:
        """Why the engine cannot answer; empty when it can. Takes up to PATIENCE seconds; call it from a thread."""
        came_at = time.monotonic()
        with self._lock:
            answered_at, reason = self._known
            if answered_at < (
                came_at if reason else came_at - KEPT
            ):  # what was found out while we waited is new enough
                reason = self._ask()
                self._known = time.monotonic(), reason
            return reason

    def _ask(self) -> str:
        if not engine_state(self._assistant)["ok"]:
            return "The SGLang engine does not answer, or it is still starting."
        endpoint = self._assistant.endpoint
        headers = bearer(endpoint.api_key)
        try:
            response = urllib3.request(
                "GET", f"{endpoint.base_url}/health", headers=headers, timeout=PATIENCE, retries=False
            )
        except urllib3.exceptions.HTTPError:
            return f"The SGLang engine accepts connections but has generated nothing for {PATIENCE:.0f} s."
        return "" if response.status == 200 else f"The SGLang engine says it is not healthy (status {response.status})."

    def versions(self) -> dict[str, Any]:
        """What runs here."""
        found = {name: _version(name) for name in ("csproto", "sglang", "torch", "fastapi")}
        return found | {"python": platform.python_version(), "model": self._assistant.endpoint.model_name}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
