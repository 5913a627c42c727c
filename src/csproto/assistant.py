"""The house's one line: message, triage, order facts, decision, reply."""

import hashlib
import hmac
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from csproto import reply as reply_program
from csproto import settings, triage, wording
from csproto.conversation import Conversation
from csproto.dialogue import decide, further_wishes
from csproto.endpoint import CallOptions, Endpoint, EngineError, Stopped, StopSignal, Usage
from csproto.errors import CsprotoError
from csproto.orders import CustomerFacts, OrderApi, OrderSystemDown
from csproto.policy import Decision, Rules, default_rules
from csproto.transcript import Message, Role, clean, system_prompt
from csproto.triage import Intent, Triage


class MessageRefused(CsprotoError):
    """A message the assistant does not take: empty, too long, or one too many."""


@dataclass
class Part:
    """One decision of a turn and the reply to it; a message with two wishes has two."""

    decision: Decision
    facts: dict[str, str]
    reply: str = ""
    rejected: list[str] = field(default_factory=list)  # sentences the check refused, with the reason
    fallback: bool = False  # the template was sent in place of the model's words


@dataclass
class Turn:
    """Everything about one message and its answer: what `csproto ask --json` prints, and the trace the panel shows."""

    text: str
    triage: Triage
    parts: list[Part]
    usage: Usage
    note: str = ""  # an extra sentence of ours: a reminder, or that the next wish is noted
    reusable_tokens: int = 0  # tokens computed earlier in this conversation
    reused_tokens: int = 0  # of these, how many came from the cache
    ttft_ms: float = 0.0
    total_ms: float = 0.0

    @property
    def decision(self) -> Decision:
        """The decision on the message's first wish."""
        return self.parts[0].decision

    @property
    def reply(self) -> str:
        """All the customer reads."""
        return " ".join(filter(None, [*(p.reply for p in self.parts), self.note]))

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        usage = vars(self.usage) | {
            "reusable_tokens": self.reusable_tokens,
            "reused_tokens": self.reused_tokens,
            "ttft_ms": round(self.ttft_ms, 1),
            "total_ms": round(self.total_ms, 1),
        }
        return {
            "triage": self.triage.model_dump(mode="json"),
            "decision": _decision_dict(self.parts[0]),
            "also": [_decision_dict(part) for part in self.parts[1:]],
            "reply": self.reply,
            "usage": usage,
        }


def _decision_dict(part: Part) -> dict[str, Any]:
    return {
        "action": part.decision.action,
        "rule": part.decision.rule,
        "source": default_rules().sources[part.decision.rule],
        "facts": part.facts,
        "grounded": not part.rejected,
        "rejected": part.rejected,
        "fallback": part.fallback,
    }


@dataclass(frozen=True)
class Triaged:
    """The model has understood the message."""

    triage: Triage


@dataclass(frozen=True)
class Decided:
    """A rule has fired and its write is done."""

    part: Part


@dataclass(frozen=True)
class Token:
    """A piece of the reply that has passed the check."""

    text: str


@dataclass(frozen=True)
class Done:
    """The turn is complete and saved."""

    turn: Turn


Event = Triaged | Decided | Token | Done


class Assistant:
    """Answers customers: a SGLang server for words, an order system for facts, rules for decisions.

    clock: returns the present moment with its time zone; tests and notebooks set it.
    temperature: for triage and reply alike; 0 is greedy.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        orders: OrderApi,
        *,
        clock: Callable[[], datetime] | None = None,
        rules: Rules | None = None,
        temperature: float = 0.0,
    ) -> None:
        self.endpoint, self.orders = endpoint, orders
        self.clock = clock or (lambda: datetime.now(UTC))
        self.rules = rules or default_rules()
        self.temperature = temperature
        self.prompt = system_prompt(endpoint.model_name)

    def open(self, customer_id: str) -> Conversation:
        """A new conversation of a signed-in customer, its prompt's prefix already computed. Raises CustomerUnknown, EngineError."""
        self.orders.known(customer_id)
        conversation = Conversation(customer_id, self.clock(), transcript=[Message("system", self.prompt)])
        self.endpoint.warm(f"<|im_start|>system\n{self.prompt}<|im_end|>\n", self._salt(customer_id))
        return conversation

    def turn(self, conversation: Conversation, text: str) -> Turn:
        """Answer one message. Raises MessageRefused and EngineError; after either the conversation can go on."""
        *_, last = self.stream(conversation, text)
        assert isinstance(last, Done)
        return last.turn

    def stream(self, conversation: Conversation, text: str, stop: StopSignal | None = None) -> Iterator[Event]:
        """Answer one message step by step: `Triaged`, then for each wish `Decided` and `Token`s, then `Done`.

        `stop` ends the work at once, before the first token too; `Stopped` is then raised. What was decided before stays decided.
        """
        began = time.perf_counter()
        text = self._checked(conversation, text)
        run = _Run(self, conversation, text, stop or StopSignal(), began)
        yield from run.events()

    def _checked(self, conversation: Conversation, text: str) -> str:
        text = clean(text)
        if not text:
            raise MessageRefused("The message is empty. Write what you need, for example: 我的订单到哪了?")
        if len(text) > settings.MAX_MESSAGE_CHARS:
            raise MessageRefused(
                f"The message has {len(text)} characters and {settings.MAX_MESSAGE_CHARS} are the most. Send it in a shorter form."
            )
        if conversation.turns >= settings.MAX_TURNS:
            raise MessageRefused(f"This conversation has reached {settings.MAX_TURNS} messages. Start a new one.")
        return text

    def _salt(self, customer_id: str) -> str:
        """Keeps each customer's part of the prefix cache apart, so that timing tells nobody what another one wrote."""
        return hmac.new(
            (self.endpoint.api_key or "csproto").encode(), customer_id.encode(), hashlib.sha256
        ).hexdigest()[:32]


class _Run:
    """One turn under way."""

    def __init__(
        self, assistant: Assistant, conversation: Conversation, text: str, stop: StopSignal, began: float
    ) -> None:
        self.assistant, self.conversation, self.text, self.stop, self.began = assistant, conversation, text, stop, began
        self.language = wording.language_of(text, conversation.language)
        self.usage, self.first_text_at = Usage(), 0.0
        self.reusable = self.reused = 0
        self.now = assistant.clock()
        self.facts: CustomerFacts | None = None

    def events(self) -> Iterator[Event]:
        conversation = self.conversation
        conversation.trim()
        understood = self._triage()
        conversation.language = self.language
        yield Triaged(understood)
        turn = Turn(self.text, understood, [], self.usage)
        had_question = conversation.state.waiting
        try:
            wishes = [understood]
            while wishes:
                part = self._decide(wishes.pop(0), len(turn.parts))
                turn.parts.append(part)
                yield Decided(part)
                yield from self._reply(part)
                wishes += self._next_wishes(turn)
            if note := wording.note(had_question, conversation.state, conversation.queue, turn.decision, self.language):
                turn.note = note
                yield Token(note)
                last = conversation.transcript.pop()
                self._append("assistant", f"{last.content} {note}")
        finally:  # a reply that was stopped: what was decided and written is kept all the same
            self._close(turn)
        yield Done(turn)

    # -- triage

    def _triage(self) -> Triage:
        """The message as the model understands it; appended to the transcript only once it is complete."""
        conversation = self.conversation
        state = triage.program().run(
            conversation.transcript,
            self.text,
            temperature=self.assistant.temperature,
            backend=self._backend(ebnf=triage.grammar(self.text)),
            use_thread=False,
        )
        raw = state["triage"]
        self._count(state.get_meta_info("triage"))
        understood = Triage.model_validate_json(raw)
        conversation.transcript += [Message("user", self.text), Message("assistant", raw)]
        return understood

    # -- facts and decision

    def _decide(self, understood: Triage, place: int) -> Part:
        """Facts, decision and its write. When the order system fails, the decision says so and a human gets the wish."""
        conversation, assistant = self.conversation, self.assistant
        before, key = conversation.state, f"{conversation.id}:{conversation.turns}:{place}"
        try:
            facts = self.facts = self._look_up(understood)
            decision, conversation.state = decide(understood, facts, before, self.now, assistant.rules)
            say = dict(decision.say) | self._written(decision, facts, key)
        except OrderSystemDown:
            conversation.state = before
            decision, say = Decision("unavailable", "system.unavailable"), {}
            assistant.orders.leave_ticket(
                f"{key}:unavailable", conversation.customer_id, f"{understood.intent}: {self.text[:500]}", self.now
            )
        shown = wording.facts_shown(say, self.language)
        self._append("system", reply_program.brief(decision.action, decision.rule, self.language, shown))
        return Part(decision, shown)

    def _look_up(self, understood: Triage) -> CustomerFacts:
        """What the order system knows of the customer; small talk asks it nothing, and so survives its troubles."""
        customer_id = self.conversation.customer_id
        if understood == Triage(intent=Intent.OTHER, more=understood.more):
            return CustomerFacts(customer_id, (), self.now)
        return self.assistant.orders.facts(customer_id)

    def _written(self, decision: Decision, facts: CustomerFacts, key: str) -> dict[str, str]:
        """Make the decision's write; the ticket it opened becomes a fact."""
        write = decision.write
        if write is None:
            return {}
        if write.kind in ("handoff", "complaint"):
            write = replace(write, detail=self._summary(write.detail))
        number = self.assistant.orders.write(
            f"{key}:{write.kind}:{write.order_id}", facts.customer_id, write, self.now, decision.rule
        )
        return {"ticket": f"T{number:05d}"} if number else {}

    def _summary(self, reason: str) -> str:
        """What a human agent needs to read first: the customer's last lines and the order under discussion."""
        said = [m.content for m in self.conversation.transcript if m.role == "user"][-5:]
        head = f"order {self.conversation.state.order_id or 'not named'}; reason: {reason or 'not stated'}"
        return head + "\n" + "\n".join(f"- {line[:200]}" for line in said)

    def _next_wishes(self, turn: Turn) -> list[Triage]:
        """The message's further wishes, once nothing is open; until then they wait in the conversation's queue."""
        conversation = self.conversation
        if len(turn.parts) == 1 and self.facts:
            conversation.queue += further_wishes(turn.triage, self.text, self.facts)
        if conversation.state.waiting or not conversation.queue or turn.decision.action == "unavailable":
            return []
        return [conversation.queue.pop(0)]

    # -- reply

    def _reply(self, part: Part) -> Iterator[Event]:
        """Generate, check and pass on sentence by sentence; one bad sentence, and the rest is the template's."""
        sentences: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        worker = threading.Thread(target=self._generate, args=(sentences, part.facts), daemon=True)
        worker.start()
        try:
            while isinstance(sentence := sentences.get(), str):
                if reason := reply_program.ungrounded(sentence, part.decision.rule, self.language, part.facts):
                    part.rejected.append(f"{sentence.strip()} ({reason})")
                    break
                part.reply += sentence
                yield self._shown(sentence)
            if isinstance(sentence, BaseException) and (
                isinstance(sentence, Stopped) or not isinstance(sentence, EngineError)
            ):
                raise sentence
            if part.rejected or isinstance(sentence, EngineError) or not part.reply.strip():
                yield from self._fall_back(part)
        finally:
            if worker.is_alive():  # a refused sentence, or a reader who went away: the rest need not be generated
                self.stop.interrupt()
            worker.join()
            part.reply = part.reply.strip()
            self._append("assistant", part.reply or "…")

    def _fall_back(self, part: Part) -> Iterator[Event]:
        part.fallback = True
        words = wording.template(part.decision, self.language, part.facts)
        if words not in part.reply:
            piece = (" " if part.reply and self.language == "en" else "") + words
            part.reply += piece
            yield self._shown(piece)

    def _generate(self, sentences: "queue.SimpleQueue[str | BaseException | None]", facts: dict[str, str]) -> None:
        """Run the reply program; sentences go into the queue as they are complete, then None or the error."""
        cutter = reply_program.SentenceCutter()

        def on_text(piece: str) -> None:
            for sentence in cutter.feed(piece):
                sentences.put(sentence)

        try:
            transcript = self.conversation.transcript
            state = reply_program.program().run(
                transcript,
                temperature=self.assistant.temperature,
                backend=self._backend(ebnf=reply_program.grammar(facts, self.language), on_text=on_text),
                use_thread=False,
            )
            self._count(state.get_meta_info("reply"))
            for sentence in cutter.finish():
                sentences.put(sentence)
            sentences.put(None)
        except BaseException as error:  # handed to the thread that waits for it
            sentences.put(error)

    # -- book-keeping

    def _backend(self, ebnf: str | None = None, on_text: Callable[[str], None] | None = None) -> Endpoint:
        salt = self.assistant._salt(self.conversation.customer_id)
        return self.assistant.endpoint.with_options(
            CallOptions(ebnf=ebnf, cache_salt=salt, on_text=on_text, stop=self.stop, usage=self.usage)
        )

    def _count(self, meta: Mapping[str, Any]) -> None:
        """How much of what this conversation had computed was reused by one call; the last token of an output has no KV entry yet."""
        conversation = self.conversation
        self.reusable += conversation.computed_tokens
        self.reused += min(meta["cached_tokens"], conversation.computed_tokens)
        conversation.computed_tokens = meta["prompt_tokens"] + meta["completion_tokens"] - 1

    def _shown(self, text: str) -> Token:
        self.first_text_at = self.first_text_at or time.perf_counter()
        return Token(text)

    def _append(self, role: Role, content: str) -> None:
        self.conversation.transcript.append(Message(role, content))

    def _close(self, turn: Turn) -> None:
        self.conversation.turns += 1
        self.conversation.save(self.assistant.orders.engine)
        turn.reusable_tokens, turn.reused_tokens = self.reusable, self.reused
        turn.total_ms = (time.perf_counter() - self.began) * 1000
        turn.ttft_ms = ((self.first_text_at or time.perf_counter()) - self.began) * 1000
