"""A chat as a document: Markdown to read, JSON to work with, plain text as a transcript."""

import json
import re
from typing import Any

from csproto.chat.messages import Message
from csproto.chat.session import ChatSession
from csproto.chat.words import plain, words

FORMATS = {"json": "application/json", "markdown": "text/markdown"}

# A character that Markdown may read as markup: "*" matches, "a" does not.
MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")


def exported(session: ChatSession, form: str, language: str) -> str:
    """Return the chat as `json` or `markdown`."""
    if form == "json":
        return json.dumps(session.as_dict(), ensure_ascii=False, indent=2)
    return to_markdown(session, language)


def to_markdown(session: ChatSession, language: str) -> str:
    """Return the chat with the reasons for each answer.

    What people and the shop wrote is escaped: none of it works as markup.
    """
    table = words()[language]
    lines = [f"# {table['title']}", "", f"{table['customer']}: {session.customer_id}", ""]
    for message in session.messages:
        lines += _said(message, language) + _reasons(message, language) + [""]
    return "\n".join(lines)


def _said(message: Message, language: str) -> list[str]:
    """Return the lines of a message and its answer."""
    table = words()[language]
    at = f" ({message['at']})" if message["at"] else ""
    question = [f"**{table['you']}**{at}", "", _quote(message["text"]), ""]
    return [*question, f"**{table['assistant']}**", "", _quote(_answer(message, language)), ""]


def _reasons(message: Message, language: str) -> list[str]:
    """Return the lines with triage, decisions and figures of an answer."""
    table, lines = words()[language], []
    if message["triage"]:
        lines += [f"- {table['understood']}: {_code(message['triage'])}"]
    for decision in message["decisions"]:
        rule = f"`{decision['rule']}` → `{decision['action']}` ({_text(decision['source'])})"
        lines += [f"- {table['rule']}: {rule}", f"- {table['facts']}: {_code(decision['facts'])}"]
        lines += [f"- {table['written']}: {written(decision, language)}"]
    if usage := message["usage"]:
        lines += [
            f"- {table['ttft']} {usage['ttft_ms']:.0f} ms, "
            f"{table['total']} {usage['total_ms']:.0f} ms, "
            f"{usage['prompt_tokens']} {table['tokens']}, "
            f"{usage['cached_tokens']} {table['cached']}"
        ]
    return lines


def written(decision: dict[str, Any], language: str) -> str:
    """Return what a decision wrote to the order system, in words."""
    table, kind = words()[language], decision["write"]
    return str(table["writes"].get(kind, kind) if kind else table["nothing_written"])


def to_text(messages: list[Message], language: str) -> str:
    """Return the chat as the lines of a transcript."""
    table = words()[language]
    lines = [
        f"{table['you']}: {m['text']}\n{table['assistant']}: {_answer(m, language)}"
        for m in messages
    ]
    return "\n".join(lines)


def _answer(message: Message, language: str) -> str:
    """Return the reply, and how the message ended if it has no complete answer."""
    end = {"stopped": f"[{words()[language]['stopped']}]", "running": "…"}.get(message["state"], "")
    if error := message["error"]:
        end = f"[{plain(error['code'], language)}]"
    return " ".join(filter(None, [message["reply"], end]))


def _quote(text: str) -> str:
    return "\n".join(f"> {_text(line)}" for line in text.splitlines() or [""])


def _text(text: str) -> str:
    return MARKUP.sub(r"\\\1", text)


def _code(value: Any) -> str:
    """Return JSON between backticks: one more of them than stand in a row in the JSON."""
    text = json.dumps(value, ensure_ascii=False)
    ticks = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{ticks} {text} {ticks}" if "`" in text else f"`{text}`"
