"""What the tests of several files share."""

from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the repository
NOW = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)  # the present of the demo shop: noon in Shanghai


def running_requests(endpoint) -> int:
    """Return how many requests the server works on right now."""
    loads = endpoint.get_json("/v1/loads")["loads"]
    return sum(load.get("num_running_reqs", 0) for load in loads)
