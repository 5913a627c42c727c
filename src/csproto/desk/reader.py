"""Calls the model, with three SGLang programs.

`triage` reads a message, `payment_risk` reads what the message claims about a payment,
and `choose` chooses a wording for the reply.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from csproto import settings
from csproto.desk.sureness import Token, sureness
from csproto.desk.transcript import Message, routing_key
from csproto.engine.endpoint import CallOptions, Endpoint, RequestRefused, StopSignal, Usage
from csproto.engine.grammar import terminal

TRIAGE_TOKENS = 1_000  # the grammar ends a triage long before
CHOICE_TOKENS = 300
PROMPT_PATIENCE = 600.0  # seconds
RIVALS = 5  # how many of the likeliest tokens the server reports for each token


@dataclass(frozen=True)
class Call:
    """What a model wrote, and the server's figures about the call (`meta_info`)."""

    text: str
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Read(Call):
    """A triage as the model wrote it.

    sure, runner_up: how sure the model was, and the second likeliest first intent; the
    function `sureness` defines both.
    """

    sure: float = 1.0
    runner_up: str | None = None


class Reader(Protocol):
    """Reads messages and chooses replies.

    `ModelReader` asks a model. The corpus and the tests use an oracle instead: a
    stand-in that knows the right answers because it also wrote the messages.
    """

    def triage(self, messages: Sequence[Message], text: str, ebnf: str) -> Read:
        """Read one message.

        messages: prompt and transcript before the message.
        text: the message.
        ebnf: the grammar of the answer.
        """

    def claims(self, messages: Sequence[Message], ebnf: str) -> Call:
        """Read what the last message of the customer claims about a payment."""

    def choose(self, messages: Sequence[Message], stems: Sequence[str]) -> tuple[int, Call]:
        """Choose one of several replies, each given by its first words.

        Returns the place of the chosen one in the list, counted from 0.
        """


@cache
def programs() -> dict[str, Any]:
    """Return the SGLang programs by name.

    They are made at the first call, because importing sglang takes seconds.
    """
    import sglang as sgl

    roles = {"system": sgl.system, "user": sgl.user, "assistant": sgl.assistant}

    @sgl.function
    def triage(s, messages: Sequence[Message], text: str):  # type: ignore[no-untyped-def]
        for message in messages:
            s += roles[message.role](message.content)
        s += sgl.user(text)
        s += sgl.assistant(sgl.gen("answer", max_tokens=TRIAGE_TOKENS))

    @sgl.function
    def payment_risk(s, messages: Sequence[Message]):  # type: ignore[no-untyped-def]
        for message in messages:
            s += roles[message.role](message.content)
        s += sgl.system("payment")
        s += sgl.assistant(sgl.gen("answer", max_tokens=TRIAGE_TOKENS))

    @sgl.function
    def choose(s, messages: Sequence[Message]):  # type: ignore[no-untyped-def]
        for message in messages:
            s += roles[message.role](message.content)
        s += sgl.assistant(sgl.gen("answer", max_tokens=CHOICE_TOKENS))

    return {"triage": triage, "payment_risk": payment_risk, "choose": choose}


def read_ahead(endpoint: Endpoint, prompt: tuple[Message, ...]) -> None:
    """Let the server compute the prompt that all customers share, before any of them waits.

    A prompt of thousands of tokens can take a CPU longer than the read time-out. Done once
    for an endpoint and its copies, however many desks are made on them at the same time.

    Raises EngineError.
    """
    messages = [{"role": m.role, "content": m.content} for m in prompt]
    text = endpoint.chat_template.get_prompt(messages)
    with endpoint.reading_ahead:
        if text not in endpoint.read:
            endpoint.warm(text, patience=PROMPT_PATIENCE)
            endpoint.read.add(text)


class ModelReader:
    """Reads with a model on a SGLang server, during one turn.

    intents: all intents of the handbook.
    sampling: the sampling parameters.
    stop: ends the calls of this turn.
    usage: the figures of all its calls.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        intents: Sequence[str],
        sampling: Mapping[str, float],
        stop: StopSignal | None = None,
    ) -> None:
        self.endpoint, self.intents, self.sampling = endpoint, intents, dict(sampling)
        self.stop, self.usage = stop, Usage()

    def triage(self, messages: Sequence[Message], text: str, ebnf: str) -> Read:
        """Let the model read one message. Raises EngineError."""
        call = self._run("triage", ebnf, messages, text, rivals=RIVALS)
        tokens = _tokens(call.meta)
        sure, runner_up = sureness(tokens, self.intents)
        return Read(call.text, call.meta, sure, runner_up)

    def claims(self, messages: Sequence[Message], ebnf: str) -> Call:
        """Let the model read the claims about a payment. Raises EngineError."""
        return self._run("payment_risk", ebnf, messages)

    def choose(self, messages: Sequence[Message], stems: Sequence[str]) -> tuple[int, Call]:
        """Let the model write the first words of a reply. Raises EngineError."""
        ebnf = f"root ::= {' | '.join(map(terminal, stems))}\n"
        call = self._run("choose", ebnf, messages)
        if call.text not in stems:  # cut short, or the server ignored the grammar
            raise RequestRefused(f"The model wrote {call.text[:40]!r}, which begins no reply.")
        return list(stems).index(call.text), call

    def _run(
        self,
        program: str,
        ebnf: str,
        messages: Sequence[Message],
        *arguments: Any,
        rivals: int = 0,
    ) -> Call:
        """Run one program under a grammar. Raises EngineError."""
        options = CallOptions(
            ebnf,
            stop=self.stop,
            usage=self.usage,
            rivals=rivals,
            stream_interval=settings.UNREAD,
            routing_key=routing_key(messages),
        )
        backend = self.endpoint.with_options(options)
        state = programs()[program].run(
            messages, *arguments, **self.sampling, backend=backend, use_thread=False
        )
        return Call(state["answer"], state.get_meta_info("answer"))


def _tokens(meta: Mapping[str, Any]) -> list[Token]:
    """Return the tokens of an answer, each with its log-probability and its rivals."""
    chosen, rivals = meta.get("output_token_logprobs") or [], meta.get("output_top_logprobs") or []
    return [
        Token(text, logprob, tuple((rival, p) for p, _, rival in at))
        for (logprob, _, text), at in zip(chosen, rivals, strict=False)
    ]
