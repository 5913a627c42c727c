"""The house's one line: message, triage, order facts, decision, reply."""

import hashlib
import hmac
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import Progress

from csproto import reply as reply_program
from csproto import settings, triage, wording
from csproto.bounds import Bounds, MessageRefused
from csproto.conversation import Conversation, Step, UnderWay
from csproto.dialogue import DialogueState, decide
from csproto.engine.endpoint import CallOptions, Endpoint, EngineError, Stopped, StopSignal, Usage
from csproto.masking import masked
from csproto.meaning import adds_a_reason, as_meant, further_wishes
from csproto.policy import Decision, Rules, default_rules
from csproto.shop.orders import CustomerFacts, OrderApi, OrderMoved, OrderSystemDown
from csproto.transcript import Message, Role, system_prompt
from csproto.triage import Intent, Triage
from csproto.turn import Decided, Done, Event, Part, Token, Triaged, Turn

__all__ = ["Assistant", "Decided", "Done", "Event", "MessageRefused", "Part", "Token", "Triaged", "Turn"]

DECISIONS = 3  # how often a decision is taken again because its order has moved on meanwhile
logger = logging.getLogger(__name__)


class Assistant:
    """Answers customers: a SGLang server for words, an order system for facts, rules for decisions.

    clock: returns the present moment with its time zone; tests and notebooks set it.
    temperature: for triage and reply alike; 0 is greedy, above it `settings.TOP_P` cuts off what is unlikely.
    messages_per_minute: of one customer; None for any number. Safe to use from many threads.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        orders: OrderApi,
        *,
        clock: Callable[[], datetime] | None = None,
        rules: Rules | None = None,
        temperature: float = 0.0,
        messages_per_minute: int | None = settings.MESSAGES_PER_MINUTE,
    ) -> None:
        self.endpoint, self.orders = endpoint, orders
        self.bounds = Bounds(messages_per_minute)
        self.clock = clock or (lambda: datetime.now(UTC))
        self.rules = rules or default_rules()
        self.sampling = {"temperature": temperature} | ({"top_p": settings.TOP_P} if temperature else {})
        self.prompt = system_prompt(endpoint.model_name)

    def open(self, customer_id: str) -> Conversation:
        """A new conversation of a signed-in customer, its prompt's prefix already computed. Raises CustomerUnknown, EngineError."""
        self.orders.known(customer_id)
        conversation = Conversation(customer_id, self.clock(), transcript=[Message("system", self.prompt)])
        self.endpoint.warm(f"<|im_start|>system\n{self.prompt}<|im_end|>\n", self._salt(customer_id))
        return conversation

    def turn(self, conversation: Conversation, text: str) -> Turn:
        """Answer one message. Raises MessageRefused and EngineError, after which the conversation can go on, and CustomerUnknown for one erased meanwhile."""
        *_, last = self.stream(conversation, text)
        assert isinstance(last, Done)
        return last.turn

    def stream(self, conversation: Conversation, text: str, stop: StopSignal | None = None) -> Iterator[Event]:
        """Answer one message step by step: `Triaged`, then for each wish `Decided` and `Token`s, then `Done`.

        `stop` ends the work at once, before the first token too; `Stopped` is then raised. What was decided before stays decided.
        """
        began = time.perf_counter()
        with self.bounds.admitted(conversation, text) as message:
            self.orders.known(conversation.customer_id)
            yield from _Run(self, conversation, message, stop or StopSignal(), began).events()

    def turns(
        self, batch: Iterable[tuple[Conversation, str]], *, workers: int = 8, progress: bool = True
    ) -> list[Turn | Exception]:
        """Answer many messages, `workers` conversations at once. The results stand in the order of the batch, a failed message's error among them.

        Messages of the same conversation are answered one after the other, as they stand in the batch. progress: a bar on stderr.
        """
        jobs, places = list(batch), dict[str, list[int]]()
        for place, (conversation, _) in enumerate(jobs):
            places.setdefault(conversation.id, []).append(place)
        results: dict[int, Turn | Exception] = {}
        with (
            Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar,
            ThreadPoolExecutor(workers) as pool,
        ):
            task = bar.add_task("answering", total=len(jobs))

            def answer(conversation_id: str) -> None:
                for place in places[conversation_id]:
                    try:
                        results[place] = self.turn(*jobs[place])
                    except Exception as error:  # one message's; the others go on
                        results[place] = error
                    bar.advance(task)

            list(pool.map(answer, places))
        return [results[place] for place in range(len(jobs))]

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
        self.usage, self.first_text_at, self.gap = Usage(), 0.0, ""
        self.reusable = self.reused = 0
        self.now = assistant.clock()
        self.facts: CustomerFacts | None = None
        self.before = replace(conversation, transcript=[*conversation.transcript], queue=[*conversation.queue])
        under_way = conversation.under_way
        self.interrupted = under_way if under_way and under_way.text == text else None  # by a crash
        self.steps = [*self.interrupted.steps] if self.interrupted else []

    def events(self) -> Iterator[Event]:
        conversation = self.conversation
        conversation.trim()
        understood = self._remembered(self.interrupted) if self.interrupted else self._triage()
        conversation.language = self.language
        self.understood = self.meant = understood
        yield Triaged(understood)
        turn = Turn(self.text, understood, understood, [], self.usage)
        had_question = conversation.state.waiting
        try:
            wishes = [understood]
            while wishes:
                part = self._decide(wishes.pop(0), len(turn.parts))
                turn.parts.append(part)
                turn.meant = self.meant
                yield Decided(part)
                yield from self._reply(part)
                self.gap = " "
                wishes += self._next_wishes(turn)
            if note := wording.note(had_question, conversation.state, conversation.queue, turn.decision, self.language):
                turn.note = note
                yield self._shown(note)
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
            **self.assistant.sampling,
            backend=self._backend(ebnf=triage.grammar(self.text)),
            use_thread=False,
        )
        raw = state["triage"]
        self._count(state.get_meta_info("triage"))
        understood = Triage.model_validate_json(raw)
        conversation.transcript += [Message("user", self.text), Message("assistant", raw)]
        return understood

    def _remembered(self, interrupted: UnderWay) -> Triage:
        """What the model had made of this message before the crash: another answer could lead to other decisions."""
        self.conversation.transcript += [Message("user", self.text), Message("assistant", interrupted.triage)]
        return Triage.model_validate_json(interrupted.triage)

    # -- facts and decision

    def _decide(self, understood: Triage, place: int) -> Part:
        """Facts, decision and its write. When the order system fails, the decision says so and a human gets the wish."""
        conversation, orders = self.conversation, self.assistant.orders
        # Another message sent in the turn's place has other writes.
        message = hashlib.sha256(self.text.encode()).hexdigest()[:8]
        before, key = conversation.state, f"{conversation.id}:{conversation.turns}:{place}:{message}"
        try:
            decision, shown = self._settled(understood, place, key)
        except OrderSystemDown:
            conversation.state = before
            decision, shown = Decision("unavailable", "system.unavailable"), {}
            wish = f"{understood.intent}: {self.text[:500]}"
            orders.leave_ticket(f"{key}:unavailable", conversation.customer_id, wish, self.now)
        self._append("system", reply_program.brief(decision.action, decision.rule, self.language, shown))
        return Part(decision, shown)

    def _settled(self, understood: Triage, place: int, key: str) -> tuple[Decision, dict[str, str]]:
        """The decision, its write made, and the facts to show. An order that moves on between facts and write is decided on again."""
        conversation, before = self.conversation, self.conversation.state
        for _ in range(DECISIONS):
            facts = self.facts = self._look_up(understood)
            self.stop.check()  # stopped while the order system was asked: nothing is decided, and nothing written
            if place == 0:
                self.meant = as_meant(understood, self.text, facts, before, self.assistant.rules)
            if place == len(self.steps):
                decision, state = decide(
                    understood if place else self.meant, facts, before, self.now, self.assistant.rules
                )
                self.steps.append(self._step(decision, state))
            decision, conversation.state = self.steps[place].decision, self.steps[place].state
            try:
                return decision, dict(decision.say) | self._written(decision, key)
            except OrderMoved:
                conversation.state, self.steps = before, self.steps[:place]
        raise OrderSystemDown("The order changed each time it was looked at.")

    def _step(self, decision: Decision, state: DialogueState) -> Step:
        """A decision with everything about it settled: the facts as they will be read, and for a human what was said."""
        write = decision.write
        if write and write.kind in ("handoff", "complaint"):
            write = replace(write, detail=self._summary(write.detail, state))
        return Step(replace(decision, say=wording.facts_shown(decision.say, self.language), write=write), state)

    def _look_up(self, understood: Triage) -> CustomerFacts:
        """What the order system knows of the customer; small talk asks it nothing, and so survives its troubles."""
        customer_id = self.conversation.customer_id
        small_talk = understood == Triage(intent=Intent.OTHER, more=understood.more)
        if small_talk and not adds_a_reason(understood, self.text, self.conversation.state, self.assistant.rules):
            return CustomerFacts(customer_id, (), self.now)
        return self.assistant.orders.facts(customer_id)

    def _written(self, decision: Decision, key: str) -> dict[str, str]:
        """Make the decision's write; the ticket it opened becomes a fact. Before it the decision is kept, should the process die."""
        write = decision.write
        if write is None:
            return {}
        orders, under_way = self.assistant.orders, UnderWay(self.text, self.understood.to_wire(), self.steps)
        replace(self.before, under_way=under_way).save(orders.engine)
        number = orders.write(
            f"{key}:{write.kind}:{write.order_id}", self.conversation.customer_id, write, self.now, decision.rule
        )
        return {"ticket": f"T{number:05d}"} if number else {}

    def _summary(self, reason: str, state: DialogueState) -> str:
        """What a human agent needs to read first: the customer's last lines and the order under discussion."""
        said = [m.content for m in self.conversation.transcript if m.role == "user"][-5:]
        head = f"order {state.order_id or 'not named'}; reason: {reason or 'not stated'}"
        return head + "\n" + "\n".join(f"- {line[:200]}" for line in said)

    def _next_wishes(self, turn: Turn) -> list[Triage]:
        """The message's further wishes, once nothing is open; until then they wait in the conversation's queue."""
        conversation = self.conversation
        if len(turn.parts) == 1 and self.facts:
            conversation.queue += further_wishes(self.meant, self.text, self.facts, self.before.state)
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
            if not part.rejected and not isinstance(sentence, EngineError):
                missing = wording.missing(part.decision.rule, self.language, part.facts, part.reply)
                part.rejected += [f"the reply lacks {', '.join(missing)}"] if missing else []
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
                **self.assistant.sampling,
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
        every = settings.READ_ALONG if on_text else settings.UNREAD
        return self.assistant.endpoint.with_options(CallOptions(ebnf, salt, on_text, self.stop, self.usage, every))

    def _count(self, meta: Mapping[str, Any]) -> None:
        """How much of what this conversation had computed was reused by one call; the last token of an output has no KV entry yet."""
        conversation = self.conversation
        self.reusable += conversation.computed_tokens
        self.reused += min(meta["cached_tokens"], conversation.computed_tokens)
        conversation.computed_tokens = meta["prompt_tokens"] + meta["completion_tokens"] - 1

    def _shown(self, text: str) -> Token:
        """A piece of the reply; all of them put together are the turn's reply."""
        self.first_text_at = self.first_text_at or time.perf_counter()
        gap, self.gap = self.gap, ""
        return Token(gap + text)

    def _append(self, role: Role, content: str) -> None:
        self.conversation.transcript.append(Message(role, content))

    def _close(self, turn: Turn) -> None:
        conversation = self.conversation
        conversation.turns, conversation.under_way = conversation.turns + 1, None
        conversation.save(self.assistant.orders.engine)
        turn.reusable_tokens, turn.reused_tokens = self.reusable, self.reused
        turn.total_ms = (time.perf_counter() - self.began) * 1000
        turn.ttft_ms = ((self.first_text_at or time.perf_counter()) - self.began) * 1000
        self._log(turn)

    def _log(self, turn: Turn) -> None:
        """One line for the operator, with nothing personal in it."""
        text = masked(self.text, [order.id for order in self.facts.orders] if self.facts else [])
        decisions = ", ".join(f"{part.decision.action} by {part.decision.rule}" for part in turn.parts)
        logger.info(
            "conversation %s, turn %d: %r is %s %s: %s, %.0f ms",
            *(self.conversation.id, self.conversation.turns, text, turn.triage.intent, turn.triage.act),
            *(decisions or "stopped before a decision", turn.total_ms),
        )
