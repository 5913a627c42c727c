"""The front end's script and its words in Chinese and English, for notebook and page."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from csproto.desk.handbook import Handbook

FOLDER = Path(__file__).parent
# The parts of the script. The notebook takes one module and can resolve no imports, so the
# parts have none, and stand one after the other.
PARTS = ("pieces", "messages", "trace", "turn", "orders", "head", "chat", "notebook")


def front_end() -> str:
    """Return the script: the files of `front_end/` as one module."""
    folder = FOLDER / "front_end"
    return "\n".join((folder / f"{part}.js").read_text(encoding="utf-8") for part in PARTS)


@cache
def words() -> dict[str, dict[str, Any]]:
    """Return the words of `words.json` by language."""
    return json.loads((FOLDER / "words.json").read_text(encoding="utf-8"))


def interface(handbook: Handbook) -> dict[str, dict[str, Any]]:
    """Return all words: `words.json`, the names of the wishes and of the orders' states."""

    def of_the_shop(language: Any) -> dict[str, dict[str, str]]:
        labels = {
            group: {value: word[language] for value, word in handbook.values.labels[group].items()}
            for group in ("status", "refund")
        }
        names = {intent: wish.label[language] for intent, wish in handbook.wishes.items()}
        return labels | {"intents": names}

    return {language: table | of_the_shop(language) for language, table in words().items()}


def plain(code: str, language: str) -> str:
    """Return what a customer reads about a kind of error. It never has the error's text."""
    reasons = words()[language]["errors"]
    return str(reasons.get(code, reasons["internal"]))
