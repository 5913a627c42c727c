"""The model's part of a turn: three SGLang programs, and what is counted about each call.

`triage` reads a message, `payment_risk` reads what it claims about a payment, `choose` picks a
reply.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from csproto.desk.sureness import Token, sureness
from csproto.desk.transcript import Message
from csproto.endpoint import CallOptions, Endpoint, RequestRefused, StopSignal, Usage
from csproto.grammar import terminal

TRIAGE_TOKENS = 1_000  # the grammar ends a triage long before
CHOICE_TOKENS = 300
RIVALS = 5  # likeliest tokens kept at each place, to find the second reading


@dataclass(frozen=True)
class Call:
    """What a model wrote, and the engine's figures about it (`meta_info`)."""

    text: str
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Read(Call):
    """A triage as the model wrote it.

    sure: probability of its first wish, or of its act. runner_up: the second likeliest intent.
    """

    sure: float = 1.0
    runner_up: str | None = None


class Reader(Protocol):
    """Whoever reads messages and picks replies.

    A model behind a server, or an oracle that knows.
    """

    def triage(self, messages: Sequence[Message], text: str, ebnf: str) -> Read:
        """Read one message."""

    def claims(self, messages: Sequence[Message], ebnf: str) -> Call:
        """Read what the last message claims about a payment."""

    def choose(self, messages: Sequence[Message], stems: Sequence[str]) -> tuple[int, Call]:
        """Pick one of several replies by its first words; its place in the list."""


@cache
def programs() -> dict[str, Any]:
    """The SGLang programs. Built on first use, because importing sglang takes seconds."""
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


class ModelReader:
    """A model behind a SGLang server.

    One for each turn: it carries the turn's stop signal and usage.
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
        """Read one message under the grammar. Raises EngineError."""
        call = self._run("triage", ebnf, messages, text, rivals=RIVALS)
        tokens = _tokens(call.meta)
        sure, runner_up = sureness(tokens, self.intents)
        return Read(call.text, call.meta, sure, runner_up)

    def claims(self, messages: Sequence[Message], ebnf: str) -> Call:
        """Read what a message claims about a payment. Raises EngineError."""
        return self._run("payment_risk", ebnf, messages)

    def choose(self, messages: Sequence[Message], stems: Sequence[str]) -> tuple[int, Call]:
        """Let the model write the first words of one reply. Raises EngineError."""
        ebnf = f"root ::= {' | '.join(map(terminal, stems))}\n"
        call = self._run("choose", ebnf, messages)
        if call.text not in stems:  # cut short, or a server that ignores the grammar
            raise RequestRefused(f"The model wrote {call.text[:40]!r}, which begins no reply.")
        return list(stems).index(call.text), call

    def _run(self, program: str, ebnf: str, *arguments: Any, rivals: int = 0) -> Call:
        options = CallOptions(ebnf, stop=self.stop, usage=self.usage, rivals=rivals)
        backend = self.endpoint.with_options(options)
        state = programs()[program].run(
            *arguments, **self.sampling, backend=backend, use_thread=False
        )
        return Call(state["answer"], state.get_meta_info("answer"))


def _tokens(meta: Mapping[str, Any]) -> list[Token]:
    """The tokens of an answer, each with its probability and its rivals."""
    chosen, rivals = meta.get("output_token_logprobs") or [], meta.get("output_top_logprobs") or []
    return [
        Token(text, logprob, tuple((rival, p) for p, _, rival in at))
        for (logprob, _, text), at in zip(chosen, rivals, strict=False)
    ]
