"""Traps of SGLang's frontend language, each sprung on the running server and then closed."""

import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from csproto.engine.endpoint import Endpoint, EngineError
from csproto.lessons.extraction import plain
from csproto.lessons.frontend import asking
from csproto.lessons.probes import deaf

import sglang as sgl  # isort: skip  # after csproto.engine.endpoint, which makes it importable on a CPU
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint  # isort: skip
from sglang.lang.chat_template import get_chat_template_by_model_path  # isort: skip

BAD = {"regex": r"(?!no)ok"}  # good Python, but no grammar has look-ahead
PATIENCE = 2.0  # seconds after which a call that has not come back counts as hanging
WAITING = f"still waits after {PATIENCE:.0f} s, and would for ever"


@sgl.function
def going_on(s, system, text, options):  # type: ignore[no-untyped-def]
    """As `asking`, with one more message after the answer."""
    s += sgl.system(system)
    s += sgl.user(text)
    s += sgl.assistant(sgl.gen("answer", **options))
    s.get_meta_info("answer")
    s += sgl.user("go on")


@dataclass(frozen=True)
class Trap:
    """Something that goes wrong without an error.

    happens: what happens with SGLang's own endpoint. closed_by: what helps against it.
    then: what happens with that. sprung: it did go wrong. closed: with the help it did
    not.
    """

    trap: str
    happens: str
    closed_by: str
    then: str
    sprung: bool
    closed: bool


def traps(endpoint: Endpoint) -> list[Trap]:
    """Spring every trap on the running server, and show it closed.

    This takes some seconds, because two of the traps are waits without an end.
    """
    found = (_silent_failure, _endless_wait, _abort_in_a_stream, _no_time_out, _template)
    return [trap(endpoint) for trap in found]


def trap_table(found: Sequence[Trap]) -> pd.DataFrame:
    """Return the traps as a table for readers."""
    rows = [(trap.trap, trap.happens, trap.closed_by, trap.then) for trap in found]
    return pd.DataFrame(rows, columns=["trap", "with SGLang's own endpoint", "closed by", "then"])


def _silent_failure(endpoint: Endpoint) -> Trap:
    state = _quietly(lambda: asking.run("", "hello", BAD, backend=_raw(endpoint)))
    then, closed = _raised(lambda: asking.run("", "hello", BAD, backend=endpoint, use_thread=False))
    missing = "answer" not in state
    there = "missing" if missing else "there"
    happens = f"run() returns; the answer is {there}; state.error(): {_short(state.error())}"
    trap = "a generation fails, here because of a bad grammar"
    return Trap(trap, happens, "use_thread=False", then, missing, closed)


def _endless_wait(endpoint: Endpoint) -> Trap:
    state = _quietly(lambda: going_on.run("", "hello", BAD, backend=_raw(endpoint)))
    again = partial(going_on.run, "", "hello", BAD, backend=endpoint, use_thread=False)
    then, closed = _raised(again)
    sprung = _hangs(state.text)
    happens = f"state.text() {WAITING if sprung else 'returns'}"
    trap = "it fails, and the program appends a message after it"
    return Trap(trap, happens, "use_thread=False", then, sprung, closed)


def _abort_in_a_stream(endpoint: Endpoint) -> Trap:
    state = asking.run("", "hello", BAD, backend=_raw(endpoint), stream=True)
    text = "".join(state.text_iter("answer"))
    finish = state.get_meta_info("answer")["finish_reason"]["type"]
    then, closed = _raised(lambda: asking.run("", "hello", BAD, backend=endpoint, use_thread=False))
    happens = f"status 200 and the text {text!r}; only the finish reason says {finish}"
    closed_by = "our Endpoint looks at the finish reason"
    sprung = finish == "abort"
    return Trap("a bad grammar while streaming", happens, closed_by, then, sprung, closed)


def _no_time_out(endpoint: Endpoint) -> Trap:
    with deaf() as url:
        sprung = _hangs(lambda: RuntimeEndpoint(url))
        then, closed = _raised(lambda: Endpoint(url, read_timeout=0.5))
    happens = f"the call {WAITING if sprung else 'returns'}"
    closed_by = "our Endpoint's time-outs"
    return Trap("a server that does not answer", happens, closed_by, then, sprung, closed)


def _template(endpoint: Endpoint) -> Trap:
    said = [{"role": "user", "content": "hello"}]
    guessed = get_chat_template_by_model_path("/models/our-own-qwen").get_prompt(said)
    read = endpoint.chat_template.get_prompt(said)
    happens = f"the template is guessed from the path: {guessed!r}"
    closed_by = "our Endpoint reads the template beside the weights"
    closed = read.startswith("<|im_start|>")
    return Trap(
        "a model in a local folder", happens, closed_by, repr(read), guessed != read, closed
    )


def _raw(endpoint: Endpoint) -> RuntimeEndpoint:
    return RuntimeEndpoint(endpoint.base_url, endpoint.api_key, chat_template_name="chatml")


def _quietly(run: Callable[[], Any]) -> Any:
    """Run a program that fails in its own thread, without the traceback as a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = run()
        state.get_meta_info("answer")
        return state


def _hangs(call: Callable[[], object]) -> bool:
    """Return whether a call has not come back after PATIENCE."""

    def quiet() -> None:
        with suppress(Exception):
            call()

    thread = threading.Thread(target=quiet, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return thread.is_alive()


def _raised(call: Callable[[], object]) -> tuple[str, bool]:
    """Return the error that a call ends with, and whether it is one of ours."""
    try:
        call()
    except EngineError as error:
        return _short(error), True
    return "nothing was raised", False


def _short(error: Exception | None) -> str:
    said = error.args[0] if error and error.args else ""
    if isinstance(said, dict):  # SGLang's endpoint raises the server's answer as it came
        said = said.get("error", {}).get("message", said)
    text = plain(str(said))
    return f"{type(error).__name__}: {text[:120]}{'…' if len(text) > 120 else ''}"
