"""What tests of several files share: the repository's folder and the moment the demo shop stands at."""

from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOW = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)  # noon in Shanghai
