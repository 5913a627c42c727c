"""The endpoints of the arms: they note when text came, from SGLang and from vLLM."""

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import urllib3

from csproto.engine.endpoint import CallOptions, Endpoint

from sglang.lang.interpreter import StreamExecutor  # isort: skip  # the endpoint makes it importable
from sglang.lang.ir import SglSamplingParams  # isort: skip

PATIENCE = 120.0  # seconds: an arm under too much load is slow, but not broken


@dataclass(frozen=True)
class Call:
    """One generation as the client saw it.

    began, first, ended: moments in seconds of `time.perf_counter`. `first` is when the
        first text came.
    first_tokens: how many tokens this first text has.
    meta: the server's figures.
    """

    began: float
    first: float
    first_tokens: int
    ended: float
    text: str
    meta: dict[str, Any]


class TimedEndpoint(Endpoint):
    """An endpoint that keeps a record of its calls.

    arm: the name of an arm. What one arm leaves in the caches of a server is of no use
        to another arm on the same server.
    """

    def __init__(self, base_url: str, api_key: str | None = None, arm: str = "") -> None:
        super().__init__(base_url, api_key, read_timeout=PATIENCE)
        self.arm = arm
        self.calls: list[Call] = []

    def apart(self) -> Self:
        """Return the same server with its own record of calls; `with_options` shares it."""
        view = copy.copy(self)
        view.calls = []
        return view

    def warm(self, text: str, cache_salt: str | None = None, patience: float | None = None) -> None:
        """Compute the KV cache of a prompt prefix for this arm. Raises EngineError."""
        super().warm(text, cache_salt or self.arm or None, patience)  # a salt names the arm already

    def reconnect(self) -> None:
        """Forget open connections: a server that was stopped closes them when it goes on."""
        self._pool.clear()

    def with_options(self, options: CallOptions) -> Self:
        """Return the same server for generations with these options.

        Salt and grammar get the name of the arm.
        """
        salt = ":".join(filter(None, (self.arm, options.cache_salt))) or None
        ebnf = options.ebnf and f"{options.ebnf}# {self.arm}\n"
        view = copy.copy(self)
        view.options = replace(options, cache_salt=salt, ebnf=ebnf)
        return view

    def generate_stream(
        self, s: StreamExecutor, sampling_params: SglSamplingParams
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Generate as the parent does, and record the call even if it breaks off."""
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
    """A vLLM server that takes the requests of SGLang.

    Prompt, limits, grammar, probabilities and cache salt go to `/v1/completions`.
    """

    def get_json(self, path: str) -> dict[str, Any]:
        """GET a JSON document; vLLM has the model's name and path in another one."""
        if path != "/model_info":
            return super().get_json(path)
        model = super().get_json("/v1/models")["data"][0]
        return {"served_model_name": model["id"], "model_path": model["root"]}

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, stream: bool = False
    ) -> urllib3.BaseHTTPResponse:
        if path == "/generate" and body is not None:
            path, body = "/v1/completions", self._for_vllm(body)
        return super()._request(method, path, body, stream)

    def _for_vllm(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return vLLM's form of a request to `/generate` of SGLang.

        The stop string is left out: the end token of the model means the same, and vLLM
        holds text back for a stop string.
        """
        parameters = body["sampling_params"]
        request = {
            "model": self.model_name,
            "prompt": body["text"],
            "max_tokens": max(1, parameters["max_new_tokens"]),  # vLLM takes no 0, which warms
            "temperature": parameters.get("temperature", 0.0),
        }
        if body.get("stream"):
            usage = {"include_usage": True, "continuous_usage_stats": True}
            request |= {"stream": True, "stream_options": usage}
        if grammar := parameters.get("ebnf"):
            request["structured_outputs"] = {"grammar": grammar}
        if salt := body.get("cache_salt"):
            request["cache_salt"] = salt
        if rivals := body.get("top_logprobs_num"):
            request["logprobs"] = rivals
        return request

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield vLLM's events in SGLang's form.

        Each has the whole text so far, and the figures so far.
        """
        text = ""
        meta: dict[str, Any] = {
            "prompt_tokens": 0,
            "cached_tokens": 0,
            "completion_tokens": 0,
            "finish_reason": None,
            "output_token_logprobs": [],
            "output_top_logprobs": [],
        }
        for event in super()._events(body):
            if "error" in event:
                yield event
                return
            for choice in event["choices"]:
                text += choice["text"]
                if reason := choice["finish_reason"]:
                    meta = meta | {"finish_reason": {"type": reason}}
                if found := choice.get("logprobs"):
                    meta = meta | _longer(meta, found)
            if usage := event.get("usage"):
                cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                counts = {key: usage[key] for key in ("prompt_tokens", "completion_tokens")}
                meta = meta | counts | {"cached_tokens": cached}
            yield {"text": text, "meta_info": meta}


def _longer(meta: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the probabilities of all tokens so far, in SGLang's form: (logprob, id, text)."""
    written = zip(found["token_logprobs"], found["tokens"], strict=True)
    rivals = [[(p, None, text) for text, p in (at or {}).items()] for at in found["top_logprobs"]]
    return {
        "output_token_logprobs": [
            *meta["output_token_logprobs"],
            *((p, None, text) for p, text in written),
        ],
        "output_top_logprobs": [*meta["output_top_logprobs"], *rivals],
    }
