"""The client side of the arms: endpoints that note when text came, for SGLang and, with the same face, for vLLM."""

import copy
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import urllib3

from csproto.engine.endpoint import CallOptions, Endpoint
from csproto.measure.bench.engines import BLOCK

from sglang.lang.interpreter import StreamExecutor  # isort: skip  # after csproto.engine.endpoint, which makes sglang importable
from sglang.lang.ir import SglSamplingParams  # isort: skip


@dataclass(frozen=True)
class Call:
    """One generation as its caller saw it; moments in seconds of `time.perf_counter`, `first` when the first text came, of so many tokens."""

    began: float
    first: float
    first_tokens: int
    ended: float
    text: str
    meta: dict[str, Any]


class TimedEndpoint(Endpoint):
    """An endpoint that keeps a record of its calls. What an arm leaves in a server's caches is of no use to another arm on the same server."""

    def __init__(self, base_url: str, api_key: str | None = None, arm: str = "") -> None:
        super().__init__(
            base_url, api_key, read_timeout=120.0
        )  # an overloaded arm is slow, not broken
        self.arm = arm
        self.calls: list[Call] = []

    def apart(self) -> Self:
        """The same server with a record of its own; `with_options` shares it."""
        view = copy.copy(self)
        view.calls = []
        return view

    def reconnect(self) -> None:
        """Forget open connections: a server that was stopped closes them as soon as it goes on."""
        self._pool.clear()

    def with_options(self, options: CallOptions) -> Self:
        """The same server, for generations with these options; salt and grammar are the arm's own."""
        salt = options.cache_salt and f"{self.arm}:{options.cache_salt}"
        ebnf = options.ebnf and f"{options.ebnf}# {self.arm}\n"
        view = copy.copy(self)
        view.options = replace(options, cache_salt=salt, ebnf=ebnf)
        return view

    def warm(self, text: str, cache_salt: str | None = None) -> None:
        """As the parent's, under the arm's own salt."""
        super().warm(text, cache_salt and f"{self.arm}:{cache_salt}")

    def generate_stream(
        self, s: StreamExecutor, sampling_params: SglSamplingParams
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """As the parent's; broken-off calls are recorded too."""
        began, first, first_tokens, text = time.perf_counter(), 0.0, 0, ""
        meta: dict[str, Any] = {}
        try:
            for piece, meta in super().generate_stream(s, sampling_params):
                if piece and not first:
                    first, first_tokens = time.perf_counter(), meta["completion_tokens"]
                text += piece
                yield piece, meta
        finally:
            ended = time.perf_counter()
            self.calls.append(Call(began, first or ended, first_tokens, ended, text, meta))


class VllmEndpoint(TimedEndpoint):
    """A vLLM server that understands what the assistant says to SGLang: the same prompt, limits, grammar and cache salt, over `/v1/completions`."""

    def get_json(self, path: str) -> dict[str, Any]:
        """GET a JSON document; the model's name stands elsewhere than in SGLang."""
        if path != "/model_info":
            return super().get_json(path)
        return {"served_model_name": super().get_json("/v1/models")["data"][0]["id"]}

    def warm(self, text: str, cache_salt: str | None = None) -> None:
        """Nothing where the prompt fills no block of vLLM's cache; else one token, the least it generates."""
        if len(self.tokens(text)) >= BLOCK:
            super().warm(text, cache_salt)

    def tokens(self, text: str) -> list[int]:
        """The ids of a text's tokens."""
        return list(
            json.loads(super()._request("POST", "/tokenize", {"prompt": text}).data)["tokens"]
        )

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, stream: bool = False
    ) -> urllib3.BaseHTTPResponse:
        if path == "/generate" and body is not None:
            path, body = "/v1/completions", self._for_vllm(body)
        return super()._request(method, path, body, stream)

    def _for_vllm(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request to SGLang's `/generate` in vLLM's words. The stop string is left out: the model's own end token is the same, and vLLM holds text back for it."""
        parameters = body["sampling_params"]
        request = {
            "model": self.model_name,
            "prompt": body["text"],
            "max_tokens": max(1, parameters["max_new_tokens"]),
            "temperature": parameters.get("temperature", 0.0),
        }
        if body.get("stream"):
            request |= {
                "stream": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            }
        if grammar := parameters.get("ebnf"):
            request["structured_outputs"] = {"grammar": grammar}
        if salt := body.get("cache_salt"):
            request["cache_salt"] = salt
        return request

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """vLLM's events in SGLang's shape: text so far, and figures that are complete with the last one."""
        text = ""
        meta: dict[str, Any] = {
            "prompt_tokens": 0,
            "cached_tokens": 0,
            "completion_tokens": 0,
            "finish_reason": None,
        }
        for event in super()._events(body):
            if "error" in event:
                yield event
                return
            for choice in event["choices"]:
                text += choice["text"]
                if reason := choice["finish_reason"]:
                    meta = meta | {"finish_reason": {"type": reason}}
            if usage := event.get("usage"):
                cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                counts = {key: usage[key] for key in ("prompt_tokens", "completion_tokens")}
                meta = meta | counts | {"cached_tokens": cached}
            yield {"text": text, "meta_info": meta}
