"""Every reply a customer can read, written to docs/replies.md so that a person can proofread it."""

from collections.abc import Mapping

from csproto.desk.handbook import Handbook, Language, Rule, default_handbook
from csproto.desk.reply import alternatives, ask_text
from csproto.desk.state import Outcome
from csproto.measure.situations import Key, situations
from csproto.settings import REPOSITORY

PAGE = REPOSITORY / "docs" / "replies.md"
HEAD = """# Every reply

Written by `python -m csproto.measure.replies`; what changes here changes in `data/`. A reply is an
opening, a wording and, where the rule asks, its question. The model only chooses among the wordings
and the openings. A row is a set of facts that the rule can come with, in both languages; for
several orders it shows the plainest reply.
"""
TABLE = ["| facts | wordings | question |", "|---|---|---|"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")
ABOUT = ("item", "orders")  # come with the order or the deed
Found = Mapping[Language, Mapping[Key, Outcome]]


def page(handbook: Handbook) -> str:
    """The page, one section a wish, one table a rule."""
    found = {language: situations(handbook, language) for language in LANGUAGES}
    lines = [HEAD, "## Openings", ""]
    for name, texts in handbook.openings.items():
        for language in LANGUAGES:
            lines.append(f"- {name}, {language}: {' / '.join(texts[language]) or '(nothing)'}")
    for intent, wish in handbook.wishes.items():
        lines += ["", f"## {intent}: {wish.label['zh']} / {wish.label['en']}"]
        for rule in wish.rules:
            lines += _rule(rule, handbook, found)
    lines += ["", "## The conversation itself"]
    for rule in handbook.rules:
        if not any(rule in wish.rules for wish in handbook.wishes.values()):
            lines += _rule(rule, handbook, found)
    return "\n".join(lines) + "\n"


def _rule(name: str, handbook: Handbook, found: Found) -> list[str]:
    """One rule: where it comes from, and a row for each set of facts and language."""
    rule = handbook.rules[name]
    lines = ["", f"### `{name}`: `{rule.action}`", "", _origin(rule), "", *TABLE]
    for key in found["en"]:
        if key[0] == name:
            lines += [_row(key, found[language][key], handbook, language) for language in LANGUAGES]
    return lines


def _origin(rule: Rule) -> str:
    return f"Source: {rule.source}. Openings: {', '.join(rule.openings)}."


def _row(key: Key, outcome: Outcome, handbook: Handbook, language: Language) -> str:
    _, count, facts = key
    words = [fact for fact in facts if fact not in ABOUT] + [f"{count} orders"] * (count > 1)
    texts, asked = wordings(outcome, handbook, language)
    shown = texts[:1] if count > 1 else texts
    return f"| {', '.join(words) or '-'} | {'<br>'.join(shown)} | {asked} |"


def wordings(outcome: Outcome, handbook: Handbook, language: Language) -> tuple[list[str], str]:
    """The replies of an outcome without their openings, and the question that they all end with."""
    rule, question = handbook.rules[outcome.decisions[0].rule], outcome.state.question
    asked = ask_text(question, handbook, language) if question else ""
    openings = [
        text for name in rule.openings for text in handbook.openings[name][language] if text
    ]
    texts: list[str] = []
    for reply in alternatives(outcome, handbook, language):
        text = reply.removesuffix(asked)
        opening = next((opening for opening in openings if text.startswith(opening)), "")
        texts.append(text.removeprefix(opening).strip())
    return list(dict.fromkeys(texts)), asked


def main() -> None:
    """Write docs/replies.md."""
    PAGE.write_text(page(default_handbook()), encoding="utf-8")
    print(f"Wrote {PAGE}.")


if __name__ == "__main__":
    main()
