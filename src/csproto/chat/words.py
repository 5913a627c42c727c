"""The words of the interface, in Chinese and English, from `words.json`: one list for kernel, notebook and page."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@cache
def words() -> dict[str, dict[str, Any]]:
    """Language to words."""
    return json.loads((FOLDER / "words.json").read_text(encoding="utf-8"))


def plain(code: str, language: str) -> str:
    """What went wrong, for a customer: by the kind of error, never by its text."""
    reasons = words()[language]["errors"]
    return str(reasons.get(code, reasons["internal"]))


def kept_line(writes: list[dict[str, str]], language: str) -> str:
    """One line about what an answer that was taken back has written."""
    table = words()[language]
    if not writes:
        return str(table["nothing_kept"])
    order = table["fact_names"]["order"]
    shown = [
        table["writes"].get(w["kind"], w["kind"]) + (f" ({order} {w['order_id']})" if w["order_id"] else "")
        for w in writes
    ]
    return f"{table['kept']}{table['list_mark'].join(shown)}"
