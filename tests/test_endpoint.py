"""The endpoint against the real server: typed errors, time-outs, stopping; and the DSL's traps, raw and closed."""

import socket
import threading
import time

import pytest
import sglang as sgl
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint

from csproto.endpoint import (
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
from csproto.triage import grammar


@sgl.function
def answer(s, text, tokens=16):
    s += sgl.user(text)
    s += sgl.assistant(sgl.gen("answer", max_tokens=tokens))


def run(endpoint, text="你好", tokens=16, **options):
    return answer.run(
        text=text, tokens=tokens, temperature=0, backend=endpoint.with_options(CallOptions(**options)), use_thread=False
    )


def test_a_grammar_reaches_the_server_and_figures_come_back(endpoint) -> None:
    usage = Usage()
    state = run(endpoint, "订单123456到哪了", 96, ebnf=grammar(), usage=usage)
    assert state["answer"].startswith('{"intent":"')
    assert usage.model_calls == 1
    assert usage.prompt_tokens > usage.cached_tokens >= 0
    assert usage.completion_tokens > 0


def test_truncation_is_an_error_and_never_half_a_json(endpoint) -> None:
    with pytest.raises(GenerationTruncated, match="cut at 2 tokens"):
        run(endpoint, "订单123456到哪了", 2, ebnf=grammar())


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


def running_requests(endpoint) -> int:
    load = endpoint.get_json("/v1/loads")
    return sum(entry.get("num_running_reqs", 0) for entry in load["loads"])


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


def test_trap_the_template_is_chosen_by_the_models_path(server, endpoint) -> None:
    """Raw: the folder's name is no model the DSL knows, so roles become USER: and ASSISTANT:. Ours: ChatML."""
    raw = RuntimeEndpoint(server[0], api_key=server[1])
    state = answer.run(text="hi", tokens=1, backend=raw, use_thread=False)
    assert state.text().startswith("USER:")
    assert endpoint.get_chat_template().name == "chatml"


def test_trap_requests_have_no_time_out(endpoint) -> None:
    """Raw: urllib waits as long as the server does. Ours: every call has one."""
    assert endpoint._timeout.connect_timeout
    assert endpoint._timeout.read_timeout
