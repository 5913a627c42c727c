"""What a call to a SGLang server needs, what it costs, and how it can fail."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import urllib3

from csproto.errors import CsprotoError


class EngineError(CsprotoError):
    """A call to the SGLang server gave no usable answer."""


class EngineUnreachable(EngineError):
    """Nobody answers at the URL, or the connection broke."""


class NoSuchPath(EngineUnreachable):
    """What answers at the URL knows no such path. A router lacks some that servers have."""


class EngineTimeout(EngineError):
    """The server accepted the call, and then sent nothing for too long."""


class WrongKey(EngineError):
    """The server wants another API key."""


class EngineBusy(EngineError):
    """The server's queue is full, or it is still starting."""


class RequestRefused(EngineError):
    """The server rejected the request: for a bad grammar, say, or a prompt that is too long."""


class GenerationTruncated(EngineError):
    """The output ended at the token limit. It is incomplete, so never parse it."""


class EngineGarbled(EngineError):
    """What answers at the URL is no SGLang server, or something between spoilt its answer."""


class Stopped(EngineError):
    """The caller stopped the generation."""


@dataclass
class Usage:
    """The figures of one or more generations.

    cached_tokens: the prompt's tokens that the server found in its prefix cache.
    model_calls: the number of generations.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    model_calls: int = 0

    def add(self, meta: dict[str, Any]) -> None:
        """Add the `meta_info` of one generation."""
        self.prompt_tokens += meta["prompt_tokens"]
        self.cached_tokens += meta["cached_tokens"]
        self.completion_tokens += meta["completion_tokens"]
        self.model_calls += 1


class StopSignal:
    """Lets another thread end a generation at once, even before its first token.

    The connection is closed, and the server then drops the request.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._response: urllib3.BaseHTTPResponse | None = None
        self.is_set = False

    def set(self) -> None:
        """Stop now. Safe to call from any thread, and more than once."""
        with self._lock:
            self.is_set = True
            self._shut()

    def watch(self, response: "urllib3.BaseHTTPResponse | None") -> None:
        """Set the response that a stop closes; None when it has been read."""
        with self._lock:
            self._response = response
            if self.is_set:
                self._shut()

    def _shut(self) -> None:
        """Close the connection, unless the body has just been read or the server was faster."""
        if self._response is not None:
            with suppress(RuntimeError, ValueError, OSError):
                self._response.shutdown()

    def check(self) -> None:
        """Raise Stopped if the caller has stopped."""
        if self.is_set:
            raise Stopped("Stopped. Send a new message when you like.")


@dataclass
class CallOptions:
    """What one generation needs beyond the arguments of SGLang's frontend language.

    ebnf: the grammar of the output.
    cache_salt: prompts with different salts share nothing in the prefix cache.
    on_text: called with each new piece of text.
    stop: lets another thread end the generation.
    usage: the figures of the generation are added to it.
    rivals: the likeliest tokens to report at each place, with their probabilities; 0
        reports none.
    stream_interval: the tokens in one event of the stream. Each event costs the server
        and the client a little.
    routing_key: calls with the same key go to the same server behind a router, which
        then finds the prefix that they share in its cache.
    """

    ebnf: str | None = None
    cache_salt: str | None = None
    on_text: Callable[[str], None] | None = None
    stop: StopSignal | None = None
    usage: Usage = field(default_factory=Usage)
    rivals: int = 0
    stream_interval: int = 1
    routing_key: str = ""
