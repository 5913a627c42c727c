"""A chat as a document: Markdown to read, JSON to work with, and plain text where there is no browser."""

import json
import re
from typing import Any

from csproto.chat.messages import Message
from csproto.chat.session import ChatSession
from csproto.chat.words import kept_line, plain, words

FORMATS = {"json": "application/json", "markdown": "text/markdown"}


def exported(session: ChatSession, form: str, language: str) -> str:
    """The chat as `json` or `markdown`."""
    if form == "json":
        return json.dumps(session.as_dict(), ensure_ascii=False, indent=2)
    return to_markdown(session, language)


def to_markdown(session: ChatSession, language: str) -> str:
    """The chat with the reasons under each answer. Whatever was written stands there as text: no markup of it takes effect."""
    table = words()[language]
    lines = [f"# {table['title']}", "", f"{table['customer']}: {session.customer_id}", ""]
    for message in session.messages:
        lines += _notice(message, language) if message["kind"] == "notice" else _turn(message, language)
    return "\n".join(lines)


def _notice(message: Message, language: str) -> list[str]:
    return [f"*{_text(kept_line(message['writes'], language))}*", ""]


def _turn(message: Message, language: str) -> list[str]:
    table = words()[language]
    lines = [f"**{table['you']}** ({message['at']})", "", _quote(message["text"]), "", f"**{table['assistant']}**", ""]
    lines += [_quote(_answer(message, language)), ""]
    if message["triage"]:
        lines += [f"- {table['intent']}: {_code(message['triage'])}"]
    for part in message["parts"]:
        rule = f"`{part['rule']}` → `{part['action']}`, {table['rules'].get(part['rule'], '')} ({part['source']})"
        lines += [f"- {table['rule']}: {rule}"]
        lines += [f"- {table['facts']}: {_code(part['facts'])}", f"- {table['check']}: {_text(check(part, language))}"]
    if usage := message["usage"]:
        lines += [
            f"- {table['ttft']} {usage['ttft_ms']:.0f} ms, {table['total']} {usage['total_ms']:.0f} ms, "
            f"{usage['prompt_tokens']} {table['tokens']}, {usage['cached_tokens']} {table['cached']}"
        ]
    return [*lines, ""]


def check(part: dict[str, Any], language: str) -> str:
    """What the grounding check said of one reply."""
    table = words()[language]
    if part["rejected"]:
        return f"{table['not_grounded']}{'; '.join(part['rejected'])}"
    return str(table["fallback"] if part["fallback"] else table["grounded"])


def to_text(messages: list[Message], language: str) -> str:
    """The chat as lines of a transcript."""
    lines = []
    for message in messages:
        if message["kind"] == "notice":
            lines.append(f"({kept_line(message['writes'], language)})")
            continue
        table = words()[language]
        lines += [f"{table['you']}: {message['text']}", f"{table['assistant']}: {_answer(message, language)}"]
    return "\n".join(lines)


def _answer(message: Message, language: str) -> str:
    """The reply as far as it came, and how it ended if not well."""
    end = {"stopped": f"[{words()[language]['stopped']}]", "running": "…"}.get(message["state"], "")
    if error := message["error"]:
        end = f"[{plain(error['code'], language)}]"
    return " ".join(filter(None, [message["reply"], end]))


def _quote(text: str) -> str:
    return "\n".join(f"> {_text(line)}" for line in text.splitlines() or [""])


def _text(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&-])", r"\\\1", text)


def _code(value: Any) -> str:
    """JSON between backticks, with more of them than it holds itself."""
    text = json.dumps(value, ensure_ascii=False)
    ticks = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{ticks} {text} {ticks}" if "`" in text else f"`{text}`"
