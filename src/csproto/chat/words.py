"""The words of the interface in Chinese and English, the same for notebook and page."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from csproto.desk.handbook import Handbook

FOLDER = Path(__file__).parent


@cache
def words() -> dict[str, dict[str, Any]]:
    """Return the words of `words.json` by language."""
    return json.loads((FOLDER / "words.json").read_text(encoding="utf-8"))


def interface(handbook: Handbook) -> dict[str, dict[str, Any]]:
    """Return all words of the interface: `words.json` and the names of the wishes."""

    def intents(language: Any) -> dict[str, str]:
        return {intent: wish.label[language] for intent, wish in handbook.wishes.items()}

    return {language: table | {"intents": intents(language)} for language, table in words().items()}


def plain(code: str, language: str) -> str:
    """Return what a customer reads about a kind of error. It never has the error's text."""
    reasons = words()[language]["errors"]
    return str(reasons.get(code, reasons["internal"]))
