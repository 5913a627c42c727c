"""What tests of several files share: the repository's folder, the moment the demo shop stands at, and what the server is busy with."""

from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOW = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)  # noon in Shanghai


def running_requests(endpoint) -> int:
    """How many requests the server works on right now."""
    return sum(entry.get("num_running_reqs", 0) for entry in endpoint.get_json("/v1/loads")["loads"])
