"""The calls to a SGLang server, with time-outs, grammars, cache salts, typed errors and figures.

SGLang's own `RuntimeEndpoint` has none of these: it waits for ever, has no `ebnf`
argument, sends no `cache_salt` and hides failures behind warnings. `Endpoint` adds
them. Run programs on it with `use_thread=False`, so that an error is raised where it
happens.
"""

import copy
import json
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import urllib3

from csproto.engine.cpu import make_torchvision_importable

make_torchvision_importable()

from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint
from sglang.lang.chat_template import ChatTemplate
from sglang.lang.interpreter import StreamExecutor
from sglang.lang.ir import SglSamplingParams

from csproto.engine.calls import (
    CallOptions,
    EngineBusy,
    EngineError,
    EngineGarbled,
    EngineTimeout,
    EngineUnreachable,
    GenerationTruncated,
    NoSuchPath,
    RequestRefused,
    Stopped,
    StopSignal,
    Usage,
    WrongKey,
)
from csproto.engine.own_template import own_template
from csproto.engine.server import bearer
from csproto.engine.wire import has_figures, has_text, json_object, lines, reason_in
from csproto.logs import request_number

__all__ = [
    "CallOptions",
    "Endpoint",
    "EngineBusy",
    "EngineError",
    "EngineGarbled",
    "EngineTimeout",
    "EngineUnreachable",
    "GenerationTruncated",
    "NoSuchPath",
    "RequestRefused",
    "StopSignal",
    "Stopped",
    "Usage",
    "WrongKey",
]

ROUTING_KEY = "X-SMG-Routing-Key"  # the header by which sglang-router knows a conversation


class Endpoint(RuntimeEndpoint):
    """A SGLang server at a URL. Raises EngineError if it does not answer.

    connect_timeout: seconds to reach the server.
    read_timeout: seconds for which the server may send nothing before EngineTimeout.
    """

    named = False  # whether a user named this server, and no other one will do

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        connect_timeout: float = 3.0,
        read_timeout: float = 30.0,
    ) -> None:
        # The parent's own constructor calls the server without a time-out.
        BaseBackend.__init__(self)
        self.support_concate_and_append = True
        self.base_url, self.api_key, self.verify = base_url.rstrip("/"), api_key, None
        self.options = CallOptions()
        # Prompts that were computed ahead. Copies of this object share both.
        self.read, self.reading_ahead = set[str](), threading.Lock()
        self._timeout = urllib3.Timeout(connect=connect_timeout, read=read_timeout)
        self._pool = urllib3.PoolManager(maxsize=64, retries=False)
        self.is_router = False
        self.model_info: dict[str, Any] = self._ask_model()
        if not isinstance(self.model_info.get("model_path"), str):
            raise self._garbled()
        self.chat_template: ChatTemplate = own_template(self.model_info)

    def _ask_model(self) -> dict[str, Any]:
        """Return what the server says of its model; a router says it under another path."""
        try:
            return self.get_json("/model_info")
        except NoSuchPath as error:
            with suppress(NoSuchPath):
                found = self.get_json("/get_model_info")
                self.is_router = True
                return found
            raise error

    def _headers(self) -> dict[str, str]:
        key = self.options.routing_key
        return (
            {"Content-Type": "application/json"}
            | bearer(self.api_key)
            | ({ROUTING_KEY: key} if key else {})
        )

    @property
    def model_name(self) -> str:
        """The name that the server gives its model."""
        return str(self.model_info.get("served_model_name") or self.model_info["model_path"])

    def _parsed(self, data: bytes) -> dict[str, Any]:
        """Return a JSON object. Raises EngineGarbled for anything else."""
        if (found := json_object(data)) is None:
            raise self._garbled()
        return found

    def _garbled(self) -> EngineGarbled:
        return EngineGarbled(
            f"What answers at {self.base_url} does not speak as a SGLang server does. "
            "Check the URL, and what stands between."
        )

    def with_options(self, options: CallOptions) -> "Endpoint":
        """Return the same server, for generations with these options."""
        view = copy.copy(self)
        view.options = options
        return view

    def get_json(self, path: str) -> dict[str, Any]:
        """GET a JSON document. Raises EngineError."""
        return self._parsed(self._request("GET", path).data)

    def _not_sglang(self, status: int, reason: str) -> EngineUnreachable:
        """Return the error for an answer that does not come from SGLang."""
        kind, what = NoSuchPath if status == 404 else EngineUnreachable, f"({reason})"
        return kind(
            f"No SGLang server answers at {self.base_url}: what is there answers with the "
            f"status {status} {what}. "
            "Check the URL, and the proxy in front of the server if there is one."
        )

    def post(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """POST a JSON document and return the answer's body. Raises EngineError."""
        return self._request("POST", path, body or {}).data

    def warm(self, text: str, cache_salt: str | None = None, patience: float | None = None) -> None:
        """Compute the KV cache of a prompt prefix, so that the first message need not.

        patience: seconds to wait for it, in place of the read time-out.

        Raises EngineError.
        """
        # Temperature 0, because one request that samples makes SGLang sort the
        # vocabulary for every request of its batch, where an argmax would do, for as
        # long as the batch goes on (sampling/sampling_batch_info.py, `merge_batch`).
        sampling = {"max_new_tokens": 0, "temperature": 0}
        body: dict[str, Any] = {"text": text, "sampling_params": sampling}
        body |= {"cache_salt": cache_salt} if cache_salt else {}
        patient = copy.copy(self)
        if patience:
            patient._timeout = urllib3.Timeout(connect=self._timeout.connect_timeout, read=patience)
        if self.is_router:
            patient._warm_all(body)
        else:
            patient.post("/generate", body)

    def _warm_all(self, body: dict[str, Any]) -> None:
        """Send a request to every server behind a router: at once, each with another key.

        A new key goes to the server that has least to do.
        """
        count = len(self.get_json("/workers").get("workers", [])) or 1
        keys = [secrets.token_hex(8) for _ in range(count)]
        views = [self.with_options(CallOptions(routing_key=key)) for key in keys]
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda view: view.post("/generate", body), views))

    def generates(self, patience: float) -> bool:
        """Return whether the server writes a token within `patience` seconds."""
        patient = copy.copy(self)
        patient._timeout = urllib3.Timeout(connect=self._timeout.connect_timeout, read=patience)
        body = {"text": "a", "sampling_params": {"max_new_tokens": 1, "temperature": 0}}
        try:
            return has_text(patient._parsed(patient.post("/generate", body)))
        except EngineError:
            return False

    def cache_prefix(self, prefix_str: str) -> None:
        """Compute the constant prefix of a batch, for SGLang's frontend. Raises EngineError."""
        self.warm(prefix_str, self.options.cache_salt)

    def commit_lazy_operations(self, s: StreamExecutor) -> None:
        """Compute what stands before a fork, for SGLang's frontend. Raises EngineError."""
        self.warm(s.text_, self.options.cache_salt)

    def _generate_http_request(self, s: StreamExecutor, data: dict[str, Any]) -> Any:
        """Make a call of `select` with this class's time-outs, errors and cache salt."""
        salt = {"cache_salt": self.options.cache_salt} if self.options.cache_salt else {}
        try:
            return json.loads(self.post("/generate", data | salt))  # a list, one for each choice
        except ValueError as error:
            raise self._garbled() from error

    def generate(
        self, s: StreamExecutor, sampling_params: SglSamplingParams
    ) -> tuple[str, dict[str, Any]]:
        """Generate for a program, and return text and `meta_info`. Raises EngineError.

        If the connection breaks, the request is sent once more, unless a part of the
        answer has been told already: behind a router another server may take it.
        """
        try:
            pieces = list(self.generate_stream(s, sampling_params))
        except EngineUnreachable:
            if self.options.on_text:
                raise
            if self.options.stop:
                self.options.stop.check()
            pieces = list(self.generate_stream(s, sampling_params))
        return "".join(piece for piece, _ in pieces), pieces[-1][1]

    def generate_stream(
        self, s: StreamExecutor, sampling_params: SglSamplingParams
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Generate for a program, and yield each new piece of text with its `meta_info`.

        Raises EngineError for anything that goes wrong. A truncated output raises
        GenerationTruncated after its last piece.
        """
        self._handle_dtype_to_regex(sampling_params)
        text, meta = "", {}
        for event in self._events(self._body(s.text_, sampling_params)):
            if "error" in event:
                reason = event["error"].get("message", event["error"])
                raise RequestRefused(f"The server refused the request: {reason}")
            if not has_text(event):
                raise self._garbled()
            piece, text, meta = event["text"][len(text) :], event["text"], event["meta_info"]
            if piece and self.options.on_text:
                self.options.on_text(piece)
            yield piece, meta
        self._check_end(meta)
        if not has_figures(meta):
            raise self._garbled()
        self.options.usage.add(meta)

    def _body(self, text: str, sampling_params: SglSamplingParams) -> dict[str, Any]:
        """Return the request of one streamed generation."""
        parameters = sampling_params.to_srt_kwargs()
        if self.options.ebnf:
            parameters["ebnf"] = self.options.ebnf
        if self.options.stream_interval > 1:
            parameters["stream_interval"] = self.options.stream_interval
        body: dict[str, Any] = {"text": text, "sampling_params": parameters, "stream": True}
        if request := request_number():  # a name for the server's log, different for each call
            body["rid"] = f"{request}-{secrets.token_hex(4)}"
        if self.options.cache_salt:
            body["cache_salt"] = self.options.cache_salt
        if self.options.rivals:
            body |= {
                "return_logprob": True,
                "top_logprobs_num": self.options.rivals,
                "return_text_in_logprobs": True,
            }
        return body

    def _check_end(self, meta: dict[str, Any]) -> None:
        """Raise an EngineError unless the output ended because it was complete."""
        finish = meta.get("finish_reason") or {}
        if finish.get("type") == "length":
            raise GenerationTruncated(
                f"The output was cut at {meta['completion_tokens']} tokens. "
                "Allow more tokens, or narrow the grammar."
            )
        if finish.get("type") == "abort":
            raise RequestRefused(
                f"The server gave the request up: {finish.get('message', 'no reason given')}"
            )
        if not finish:
            raise EngineUnreachable(
                f"The server at {self.base_url} ended its answer before it was complete. "
                "Is it still running?"
            )

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the server-sent events of one streamed generation."""
        stop = self.options.stop or StopSignal()
        stop.check()
        response = self._request("POST", "/generate", body, stream=True)
        stop.watch(response)
        finished = False
        try:
            for line in lines(response):
                if line == b"data: [DONE]":
                    finished = True
                elif line.startswith(b"data:"):
                    yield self._parsed(line[5:])
        except urllib3.exceptions.HTTPError as error:
            stop.check()
            raise self._translated(error) from error
        finally:
            stop.watch(None)
            response.release_conn() if finished else response.close()
        stop.check()

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, stream: bool = False
    ) -> urllib3.BaseHTTPResponse:
        """Make one request. With `stream`, the caller reads the body of the answer."""
        data = None if body is None else json.dumps(body).encode()
        ask = partial(
            self._pool.request,
            timeout=self._timeout,
            preload_content=not stream,
            headers=self._headers(),
        )
        try:
            try:
                response = ask(method, self.base_url + path, body=data)
            except urllib3.exceptions.ProtocolError:
                # A server may close a kept connection at the moment it is used again.
                # Nothing was answered, and asking twice changes nothing.
                response = ask(method, self.base_url + path, body=data)
        except urllib3.exceptions.HTTPError as error:
            raise self._translated(error) from error
        if response.status != 200:
            raise self._refusal(response.status, response.read() if stream else response.data)
        return response

    def _translated(self, error: Exception) -> EngineError:
        """Return the EngineError for an error of the connection."""
        if isinstance(error, (urllib3.exceptions.ReadTimeoutError, TimeoutError)):
            return EngineTimeout(
                f"The server at {self.base_url} has been silent for "
                f"{self._timeout.read_timeout} s. It may be overloaded or stuck; look at its "
                "log, then send the message again."
            )
        return EngineUnreachable(
            f"No SGLang server answers at {self.base_url}. "
            "Start one with `csproto serve`, or check the URL."
        )

    def _refusal(self, status: int, data: bytes) -> EngineError:
        """Return the EngineError for a status other than 200."""
        reason = reason_in(data)
        if status in (401, 403):
            return WrongKey(
                f"The server at {self.base_url} does not accept the API key. "
                "Set CSPROTO_API_KEY to the key it was started with."
            )
        if status == 404 or 300 <= status < 400:
            return self._not_sglang(status, reason)
        if status in (429, 502, 503, 504):  # also from a gateway before it
            return EngineBusy(
                f"The server at {self.base_url} takes no request right now ({reason}). "
                "Wait a moment and send the message again."
            )
        return RequestRefused(f"The server refused the request ({status}): {reason}")
