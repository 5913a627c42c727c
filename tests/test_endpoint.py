"""The endpoint against the real server.

Typed errors, time-outs, stopping; and the DSL's traps, raw and closed.
"""

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import sglang as sgl
import urllib3
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint
from support import running_requests
from tokenizers import Tokenizer

from csproto.desk.handbook import default_handbook
from csproto.desk.triage import from_wire, grammar
from csproto.engine.endpoint import (
    CallOptions,
    Endpoint,
    EngineTimeout,
    EngineUnreachable,
    GenerationTruncated,
    RequestRefused,
    Stopped,
    StopSignal,
    Usage,
    WrongKey,
)
from csproto.settings import MINI_MODEL

TRIAGE = grammar(default_handbook(), "订单123456到哪了", ["123456"], waiting=False, begun=False)


@sgl.function
def answer(s, text, tokens=16):
    s += sgl.user(text)
    s += sgl.assistant(sgl.gen("answer", max_tokens=tokens))


def run(endpoint, text="你好", tokens=16, **options):
    return answer.run(
        text=text,
        tokens=tokens,
        temperature=0,
        backend=endpoint.with_options(CallOptions(**options)),
        use_thread=False,
    )


def test_a_grammar_reaches_the_server_and_figures_come_back(endpoint) -> None:
    usage = Usage()
    state = run(endpoint, "订单123456到哪了", 96, ebnf=TRIAGE, usage=usage)
    assert from_wire(state["answer"]).wishes
    assert usage.model_calls == 1
    assert usage.prompt_tokens > usage.cached_tokens >= 0
    assert usage.completion_tokens > 0


@pytest.mark.parametrize(
    "text", ["订单5519283304还没到", "where is order 901234?", "ﾊｰﾌ ＡＢＣ１２３ é", "a  b\n\nc"]
)
def test_the_server_reads_text_as_the_model_was_taught_to(endpoint, text: str) -> None:
    """Transformers replaces the rules of tokenizer.json for some architectures.

    The model then sees tokens in an order it never learnt.
    """
    answer = json.loads(
        endpoint.post("/generate", {"text": text, "sampling_params": {"max_new_tokens": 1}})
    )
    ids = Tokenizer.from_file(str(MINI_MODEL / "tokenizer.json")).encode(text).ids
    assert answer["meta_info"]["prompt_tokens"] == len(ids)


def test_truncation_is_an_error_and_never_half_a_json(endpoint) -> None:
    with pytest.raises(GenerationTruncated, match="cut at 2 tokens"):
        run(endpoint, "订单123456到哪了", 2, ebnf=TRIAGE)


def test_a_bad_grammar_is_refused_in_words(endpoint) -> None:
    with pytest.raises(RequestRefused, match=r"(?i)grammar"):
        run(endpoint, ebnf="root ::= (")


def test_a_prompt_too_long_is_refused(endpoint) -> None:
    with pytest.raises(RequestRefused, match=r"(?i)long|length|exceed"):
        run(endpoint, "长" * 60_000)


def test_a_wrong_key(server) -> None:
    with pytest.raises(WrongKey, match="CSPROTO_API_KEY"):
        Endpoint(server[0], "not the key")


def test_nobody_there() -> None:
    with pytest.raises(EngineUnreachable, match="csproto serve"):
        Endpoint("http://127.0.0.1:9")


def test_a_server_that_accepts_and_falls_silent() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        began = time.monotonic()
        with pytest.raises(EngineTimeout, match="silent"):
            Endpoint(f"http://127.0.0.1:{deaf.getsockname()[1]}", read_timeout=0.5)
        assert time.monotonic() - began < 5


class Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on to a server.

    `cut` closes the next so many connections when a request has come in, before any
    answer.
    """

    daemon_threads = True

    def __init__(self, target: tuple[str, int], cut: int) -> None:
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.target, self.cut = target, cut

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            request = self.request.recv(1 << 20)
            if self.server.cut:
                self.server.cut -= 1
                return
            with socket.create_connection(self.server.target) as upstream:
                upstream.sendall(request)
                while data := upstream.recv(1 << 20):
                    self.request.sendall(data)


@pytest.mark.parametrize("cut", [1, 2])
def test_a_connection_closed_before_any_answer_is_opened_once_more(server, cut: int) -> None:
    """As when the server gives up an idle connection at the moment it is used again."""
    url = urllib3.util.parse_url(server[0])
    with Relay((url.host, url.port), cut) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        expected = nullcontext() if cut == 1 else pytest.raises(EngineUnreachable)
        with expected:
            assert Endpoint(f"http://127.0.0.1:{relay.server_address[1]}", server[1]).model_name
        assert not relay.cut
        relay.shutdown()


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_stop_frees_the_server_at_once(endpoint, delay: float) -> None:
    """Before the first token (no delay) and after it."""
    stop, begun = StopSignal(), threading.Event()
    outcome: list[BaseException] = []

    def generate() -> None:
        try:
            run(
                endpoint,
                "讲一个很长的故事",
                2000,
                stop=stop,
                on_text=lambda _: begun.set(),
                ebnf='root ::= "{" [a-z]{1900,1990} "}"',
            )
        except BaseException as error:
            outcome.append(error)

    worker = threading.Thread(target=generate)
    worker.start()
    if delay:
        assert begun.wait(20)
        time.sleep(delay)
    stop.set()
    worker.join(5)
    assert not worker.is_alive()
    assert isinstance(outcome[0], Stopped)
    deadline = time.monotonic() + 2
    while running_requests(endpoint) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running_requests(endpoint) == 0


# -- the DSL's traps: what happens without the endpoint, then with it

PATIENCE = 5  # seconds after which a call that should have ended long ago is said to hang
NO_SCHEMA = '{"type": "no such type"}'  # the server refuses it


class Attempt(threading.Thread):
    """Something tried in a thread of its own, so that it may hang.

    A daemon, so that the tests end all the same.
    """

    def __init__(self, what: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.what, self.found, self.until = what, None, time.monotonic() + PATIENCE
        self.start()

    def run(self) -> None:
        try:
            self.found = self.what()
        except BaseException as error:
            self.found = error

    @property
    def hangs(self) -> bool:
        """Whether it has not ended when patience has."""
        self.join(max(0.0, self.until - time.monotonic()))
        return self.is_alive()

    @property
    def outcome(self) -> Any:
        """What it returned, or the error it raised."""
        assert not self.hangs
        return self.found


@pytest.fixture
def raw(server) -> RuntimeEndpoint:
    """The DSL's own endpoint."""
    return RuntimeEndpoint(server[0], api_key=server[1])


@sgl.function
def refused(s):
    s += sgl.user("hi")
    s += sgl.assistant(sgl.gen("answer", max_tokens=4, json_schema=NO_SCHEMA))


@sgl.function
def persistent(s):
    """A program that asks again in plainer words when it has no answer."""
    s += sgl.user("hi")
    s += sgl.assistant(sgl.gen("answer", max_tokens=4, json_schema=NO_SCHEMA))
    if s.get_meta_info("answer") is None:
        s += sgl.user("hello?")
        s += sgl.assistant(sgl.gen("second", max_tokens=4))


@pytest.mark.filterwarnings("ignore:Error in stream_executor")
def test_trap_a_failed_generation_is_told_to_nobody(raw, endpoint) -> None:
    """Raw: a warning, and a KeyError for the answer.

    Ours: the server's reason, raised where it happened.
    """
    state = refused.run(backend=raw)
    with pytest.raises(KeyError, match="answer"):
        state["answer"]
    with pytest.raises(RequestRefused, match=r"(?i)schema|grammar"):
        refused.run(backend=endpoint, use_thread=False)


@pytest.mark.filterwarnings("ignore:Error in stream_executor")
def test_trap_a_program_that_goes_on_after_a_failure_hangs(raw, endpoint) -> None:
    """Raw: whoever reads anything after the failure waits for ever. Ours: raised.

    What is appended is never worked off, and so neither the text nor the error comes.
    """
    state = persistent.run(backend=raw)
    attempts = [Attempt(read) for read in (lambda: state["second"], state.text, state.error)]
    assert all(attempt.hangs for attempt in attempts)
    ours = Attempt(lambda: persistent.run(backend=endpoint, use_thread=False))
    assert isinstance(ours.outcome, RequestRefused)


@pytest.mark.filterwarnings("ignore:Error in stream_executor")
def test_trap_a_stream_that_fails_looks_like_one_that_is_empty(raw, endpoint) -> None:
    """Raw.

    Whoever reads the stream of a prompt that is too long sees no text and no error.
    Ours: raised.
    """
    text = "长" * 60_000
    attempt = Attempt(
        lambda: list(answer.run(text=text, backend=raw, stream=True).text_iter("answer"))
    )
    assert "".join(attempt.outcome) == ""
    with pytest.raises(RequestRefused, match=r"(?i)long|length|exceed"):
        run(endpoint, text)


def test_trap_a_stream_that_is_given_up_looks_like_one_that_is_finished(raw, endpoint) -> None:
    """Raw.

    A grammar that is refused leaves a stray token, no error, and the word abort in
    the figures. Ours: raised.
    """
    state = refused.run(backend=raw, stream=True)
    attempt = Attempt(lambda: list(state.text_iter("answer")))
    assert isinstance(attempt.outcome, list)
    assert state.error() is None
    assert state.get_meta_info("answer")["finish_reason"]["type"] == "abort"
    with pytest.raises(RequestRefused, match=r"(?i)schema|grammar"):
        refused.run(backend=endpoint, use_thread=False)


def test_trap_a_server_that_falls_silent_is_waited_for_without_end(endpoint) -> None:
    """Raw: no time-out anywhere, not even when it is made.

    Ours: EngineTimeout, when it is made and in the midst of an answer.
    """
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        assert Attempt(lambda: RuntimeEndpoint(url)).hangs
        ours = Attempt(lambda: Endpoint(url, read_timeout=0.5))
        assert isinstance(ours.outcome, EngineTimeout)
        impatient = Endpoint(endpoint.base_url, endpoint.api_key, read_timeout=0.5)
        impatient.base_url = url
        answering = Attempt(lambda: answer.run(text="hi", backend=impatient, use_thread=False))
        assert isinstance(answering.outcome, EngineTimeout)


def test_trap_the_template_is_chosen_by_the_models_path(raw, endpoint) -> None:
    """Raw.

    The folder's name is no model the DSL knows, so roles become USER: and
    ASSISTANT:. Ours: ChatML.
    """
    state = answer.run(text="hi", tokens=1, backend=raw, use_thread=False)
    assert state.text().startswith("USER:")
    ours = answer.run(
        text="hi",
        tokens=96,
        backend=endpoint.with_options(CallOptions(ebnf=TRIAGE)),
        use_thread=False,
    )
    assert ours.text().startswith("<|im_start|>user\nhi<|im_end|>")
