"""Answers a customer's message.

The steps of a turn: read the customer's orders, let the model read the message, decide,
make the writes, reply.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from csproto import settings
from csproto.desk import policy, transcript
from csproto.desk.admission import Admission, MessageRefused
from csproto.desk.conversation import Conversation
from csproto.desk.guess import Guess, no_guess
from csproto.desk.handbook import Handbook, Language, default_handbook
from csproto.desk.reader import Reader
from csproto.desk.state import SURE, Limits
from csproto.desk.steps import Steps
from csproto.desk.transcript import Message
from csproto.desk.turn import Decided, Done, Event, Said, Turn, Understood
from csproto.engine.endpoint import StopSignal
from csproto.shop.contract import OrderSystem

__all__ = ["Assistant", "Decided", "Done", "Event", "MessageRefused", "Said", "Turn", "Understood"]


MakeReader = Callable[[StopSignal], Reader]
Keep = Callable[[Conversation], None]
Similar = Callable[[str], Sequence[Message]]
Possible = Callable[[str], Sequence[str]]


def no_examples(text: str) -> Sequence[Message]:
    """Return no examples: the prompt has them all."""
    return ()


def all_intents(text: str) -> Sequence[str]:
    """Exclude no intent."""
    return ()


class Assistant:
    """The desk: answers the messages of customers. Safe to use from many threads.

    reader: makes the reader for one turn; it gets the signal that stops the turn.
    orders: the order system, which has the facts and makes the writes.
    keep: saves a conversation.
    prompt: the messages that the model reads before every transcript.
    handbook: the shop's rules and wordings; the demo shop's unless given.
    limits: how sure the model must be, lest the desk asks what is meant.
    guess: guesses the intent of a message; the model is told before it reads it.
    similar: gives examples that are similar to a message, for the model to read before it.
    possible: gives the intents that a message can have; none for all of the handbook.
    clock: gives the present moment with its time zone; the real time unless given.
    messages_per_minute: the most messages of one customer; None for no limit.
    """

    def __init__(
        self,
        reader: MakeReader,
        orders: OrderSystem,
        *,
        keep: Keep,
        prompt: Sequence[Message],
        handbook: Handbook | None = None,
        limits: Limits = SURE,
        guess: Guess = no_guess,
        similar: Similar = no_examples,
        possible: Possible = all_intents,
        clock: Callable[[], datetime] | None = None,
        messages_per_minute: int | None = settings.MESSAGES_PER_MINUTE,
    ) -> None:
        self.reader, self.orders, self.keep, self.prompt = reader, orders, keep, prompt
        self.handbook = handbook or default_handbook()
        self.limits, self.guess = limits, guess
        self.similar, self.possible = similar, possible
        policy.check(self.handbook)
        self.clock = clock or (lambda: datetime.now(UTC))
        self.admission = Admission(messages_per_minute)

    def open(self, customer_id: str, nonce: str | None = None) -> Conversation:
        """Begin a conversation with a signed-in customer.

        nonce: a number that begins the customer's part of the transcript, so that other
        customers cannot find this part in the server's prefix cache. Random unless
        given.

        Raises CustomerUnknown and OrderSystemDown.
        """
        facts = self.orders.facts(customer_id)
        start = transcript.opening(facts.orders, self.handbook.values.zone, nonce)
        language: Language = "en" if facts.language == "en" else "zh"
        return Conversation(
            customer_id, self.clock(), language=language, transcript=[start], seen=facts.orders
        )

    def turn(self, conversation: Conversation, text: str) -> Turn:
        """Answer one message. Raises the errors of `stream`."""
        *_, last = self.stream(conversation, text)
        assert isinstance(last, Done)
        return last.turn

    def stream(
        self, conversation: Conversation, text: str, stop: StopSignal | None = None
    ) -> Iterator[Event]:
        """Answer one message, and yield an event after each step.

        stop: lets another thread end the turn. Before the writes, the turn then raises
        Stopped; after them, it sends the plainest wording.

        Raises MessageRefused if the desk does not take the message, EngineError if the
        model cannot read it, Stopped, CustomerUnknown if the customer has been erased,
        and OrderSystemDown if the writes fail and no ticket for a human can be left, or
        if the orders change at every attempt.

        The customer can send the same message again after any of these errors. If
        nothing was written, the conversation is as it was before. If something was, no
        write is made twice.
        """
        began = time.perf_counter()
        with self.admission.admitted(conversation, text) as message:
            steps = Steps(self, conversation, message, stop or StopSignal(), began)
            with steps.undone_by_an_error():
                steps.read_orders()
                yield Understood(steps.understand())
                steps.decide()
                yield Decided(steps.write())
                yield from steps.reply()
                yield Done(steps.close())

    def turns(
        self, batch: Iterable[tuple[Conversation, str]], *, workers: int = 8
    ) -> list[Turn | Exception]:
        """Answer many messages, `workers` conversations at the same time.

        Returns one result for each message, in the sequence of the batch; for a message
        that fails, the result is the exception. The messages of one conversation are
        answered one after the other.
        """
        jobs, places = list(batch), dict[str, list[int]]()
        for place, (conversation, _) in enumerate(jobs):
            places.setdefault(conversation.id, []).append(place)
        results: dict[int, Turn | Exception] = {}

        def answer(conversation_id: str) -> None:
            for place in places[conversation_id]:
                try:
                    results[place] = self.turn(*jobs[place])
                except Exception as error:  # the other messages are still answered
                    results[place] = error

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(answer, places))
        return [results[place] for place in range(len(jobs))]
