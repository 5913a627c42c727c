"""The hand-written sentences the corpus grows from: one file per intent or list and language, one entry per line."""

from collections import defaultdict
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "seeds"


@cache
def seeds(language: str) -> dict[str, list[str]]:
    """Lines by list name; `invoice.txt` and `invoice2.txt` are one list. ` ⏎ ` stands for a line break."""
    lists: dict[str, list[str]] = defaultdict(list)
    for path in sorted((FOLDER / language).glob("*.txt")):
        lines = (
            line.strip().replace(" ⏎ ", "\n")
            for line in path.read_text(encoding="utf-8").splitlines()
        )
        lists[path.stem.rstrip("0123456789")] += [line for line in lines if line]
    return {name: list(dict.fromkeys(lines)) for name, lines in lists.items()}


def all_lines() -> list[str]:
    """Every hand-written line of both languages."""
    return [
        line for language in ("zh", "en") for lines in seeds(language).values() for line in lines
    ]
