"""What a SGLang server sends, taken apart: lines of a stream, reasons, figures."""

import json
from collections.abc import Iterator
from typing import Any

import urllib3


def lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a streamed body, each as soon as it is complete."""
    rest = b""
    for chunk in response.stream(2**16, decode_content=True):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def json_object(data: bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None if the bytes are something else."""
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def has_text(event: dict[str, Any]) -> bool:
    """Return whether an event of a stream has what every one has."""
    return isinstance(event.get("text"), str) and isinstance(event.get("meta_info"), dict)


def has_figures(meta: dict[str, Any]) -> bool:
    """Return whether the last event's `meta_info` has the figures that `Usage` counts."""
    figures = ("prompt_tokens", "cached_tokens", "completion_tokens")
    return all(isinstance(meta.get(name), int) for name in figures)


def reason_in(data: bytes) -> str:
    """Return why a request was refused, from the body of the answer."""
    body = json_object(data)
    if body is None:
        text = data[:200].decode("utf-8", "replace").strip()
        return "a web page" if text.startswith("<") else text or "no reason given"
    # When the queue is full or a request times out in it, the message is at the top
    # level.
    error = body.get("error", body)
    return str(error.get("message", error) if isinstance(error, dict) else error)
