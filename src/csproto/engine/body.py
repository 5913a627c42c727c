"""Reads the body of a server's answer: a stream's lines, or why a request was refused."""

import json
from collections.abc import Iterator

import urllib3


def lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a streamed body, each as soon as it is complete."""
    rest = b""
    for chunk in response.stream(2**16, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def reason_in(data: bytes) -> str:
    """Return why a request was refused, from the body of the answer."""
    try:
        body = json.loads(data)
        # When the queue is full or a request times out in it, the message is at the top
        # level.
        error = body.get("error", body)
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        text = data[:200].decode("utf-8", "replace").strip()
        return "a web page" if text.startswith("<") else text or "no reason given"
