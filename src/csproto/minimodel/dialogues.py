"""Conversations to learn from.

Simulated customers talk to the desk itself, whose reader is an oracle that knows what
they mean.

The transcripts are therefore exactly what the desk writes, rules and wordings included.
"""

import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from csproto.desk.assistant import Assistant
from csproto.desk.conversation import WINDOW_CHARS, Conversation
from csproto.desk.guess import no_guess
from csproto.desk.handbook import Handbook, default_handbook
from csproto.desk.reader import Call, Read
from csproto.desk.state import Question
from csproto.desk.transcript import NONCE_DIGITS, Message, Role, clean, hints, opening
from csproto.desk.triage import Triage, Wish
from csproto.minimodel.classifier import cross_fitted
from csproto.minimodel.customers import order_number, shop
from csproto.minimodel.lists import FOLDS, articles, phrases
from csproto.minimodel.speaker import Said, Speaker
from csproto.shop.orders import OrderSystemDown

PROMPT = (Message("system", "csproto"),)  # the shipped model knows its work: one word will do
COPYING = 0.03  # share of samples in which something only has to be repeated
FINDING = 0.06  # and of those in which references only have to be looked up
FOUND = 20  # references behind one list of orders
OPENINGS = 0.72  # share of samples without any dialogue before the message
OPENING_MESSAGES = 14  # messages behind one list of orders, each with its triage
GUESSED = 0.88  # share of customers about whose messages there is a first guess
ALTERNATIVES = 6  # other messages at the same place of a dialogue
TURNS = (2, 3, 4, 5, 6)
LONG = WINDOW_CHARS // 2  # characters of a transcript after which a dialogue ends
COMMON = ("other", "shop_question")  # half of what customers write


class Piece(NamedTuple):
    """A message of a training transcript.

    learn: how many of its characters the model has to write; -1 for all of them.
    instead: other messages that could stand here, each with the pieces that follow it.
    """

    role: Role
    content: str
    learn: int = 0
    instead: tuple[tuple["Piece", ...], ...] = ()


class Oracle:
    """A reader that knows what the customer means, because it made the message up."""

    def __init__(self, pick: random.Random, handbook: Handbook) -> None:
        self.pick, self.handbook = pick, handbook
        self.said = Said("", Triage())
        self.stem = ""  # the first words of the reply it chose last

    def triage(self, messages: Sequence[Message], text: str, ebnf: str) -> Read:
        return Read(self.said.triage.to_wire(), {})

    def claims(self, messages: Sequence[Message], ebnf: str) -> Call:
        claims = self.handbook.wishes["payment_issue"].slots
        empty: dict[str, Any] = {
            n: "" if slot.copied else 0 for n, slot in claims.items() if slot.claim
        }
        return Call(_wire(empty | {n: v for n, v in self.said.claims.items() if n in empty}), {})

    def choose(self, messages: Sequence[Message], stems: Sequence[str]) -> tuple[int, Call]:
        kinds = self.handbook.rules["other.small_talk"].kinds[self.said.kind]
        fitting = [
            n
            for n, stem in enumerate(stems)
            if any(w.startswith(stem) for w in (*kinds["zh"], *kinds["en"]))
        ]
        place = self.pick.choice(fitting or range(len(stems)))
        self.stem = stems[place]
        return place, Call(stems[place], {})


def conversations(seed: int, count: int, handbook: Handbook | None = None) -> Iterator[list[Piece]]:
    """`count` transcripts, the same ones for the same seed."""
    handbook = handbook or default_handbook()
    for number in range(count):
        pick = random.Random(f"{seed}:{number}")
        chance = pick.random()
        if chance < COPYING:
            yield copying(pick)
        elif chance < COPYING + FINDING:
            yield Talk(pick, handbook).finding()
        else:
            yield Talk(pick, handbook).transcript()


def copying(pick: random.Random) -> list[Piece]:
    """Something to repeat word for word, under a prompt of its own: copying takes practice."""
    language = pick.choice(("zh", "en"))
    parts = []
    for _ in range(pick.randrange(1, 7)):
        source = pick.choice(
            ("number", "number", "article", "addresses", "names", "reasons_quality", "companies")
        )
        if source == "number":
            parts.append(order_number(pick))
        elif source == "article":
            parts.append(pick.choice(articles()).name[language])
        else:
            parts.append(pick.choice(phrases(language, source)))
    text = clean(pick.choice((" ", ",", "; ")).join(parts))
    return [Piece("system", "copy"), Piece("user", text), Piece("assistant", text, learn=-1)]


class Talk:
    """One customer and what they say."""

    def __init__(self, pick: random.Random, handbook: Handbook, held_out: bool = False) -> None:
        self.pick, self.handbook = pick, handbook
        self.language = "zh" if pick.random() < 0.5 else "en"
        self.now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(
            days=pick.randrange(730), minutes=pick.randrange(1440)
        )
        self.shop = shop(pick, self.language, self.now, held_out)
        # The guesses about one part of the corpus are made by a classifier fitted on the others.
        fold = pick.randrange(FOLDS)
        self.guess = cross_fitted()[fold] if pick.random() < GUESSED else no_guess
        self.speaker = Speaker(self.language, pick, self.shop, handbook, fold)
        self.oracle = Oracle(pick, handbook)
        self.broken = False

    def finding(self) -> list[Piece]:
        """A list of orders and many ways to name them, under a prompt of its own."""
        self.guess = no_guess
        start = opening(self.shop.customer.orders, self.handbook.values.zone, self._nonce())
        found = [f for _ in range(FOUND) if (f := self.speaker.reference())]
        answers = [self._exchange(t, Triage("ask", (Wish("other", ids),))) for t, ids in found]
        if not answers:
            return copying(self.pick)
        return [Piece("system", "find"), Piece(*start), *_beside(answers)]

    def _exchange(self, text: str, triage: Triage) -> list[Piece]:
        """A message with the hints before it, and its triage after it."""
        shared = [Piece(*m) for m in hints(text, self.shop.customer.orders, self.guess(text))]
        wire = Piece("assistant", triage.to_wire(), learn=-1)
        return [*shared, Piece("user", text), wire]

    def _nonce(self) -> str:
        return f"{self.pick.randrange(10**NONCE_DIGITS):0{NONCE_DIGITS}}"

    def transcript(self) -> list[Piece]:
        """A list of orders with many possible messages behind it, or a whole dialogue."""
        desk = Assistant(
            lambda _: self.oracle,
            self,
            keep=lambda _: None,
            prompt=PROMPT,
            handbook=self.handbook,
            guess=self.guess,
            clock=lambda: self.now,
            messages_per_minute=None,
        )
        conversation = desk.open("C", nonce=self._nonce())
        pieces = [Piece(*message) for message in (*PROMPT, *conversation.transcript)]
        if self.pick.random() < OPENINGS:
            return pieces + self._said(conversation, OPENING_MESSAGES - 1)[1]
        for _ in range(self.pick.choice(TURNS)):
            if sum(len(message.content) for message in conversation.transcript) > LONG:
                break  # soon its oldest turns would be left behind
            pieces += self._turn(desk, conversation)
        return pieces

    # -- the order system, which fails now and then

    def facts(self, customer_id: str) -> Any:
        if self.broken:
            raise OrderSystemDown("down")
        return self.shop.facts(customer_id)

    def write(self, *arguments: Any) -> int:
        return self.shop.write(*arguments)

    def leave_ticket(self, *arguments: Any) -> int:
        return self.shop.leave_ticket(*arguments)

    # -- turns

    def _said(self, conversation: Conversation, alternatives: int) -> tuple[Said, list[Piece]]:
        """The next message, with others that could stand in its place."""
        said, *others = (self._message(conversation) for _ in range(1 + alternatives))
        all_of_them = [said, *(other for other in others if other.text)]
        return said, _beside([self._exchange(one.text, one.triage) for one in all_of_them])

    def _turn(self, desk: Assistant, conversation: Conversation) -> list[Piece]:
        said, pieces = self._said(conversation, ALTERNATIVES)
        shared = [Piece(p.role, p.content) for p in pieces if p.role == "system"]
        if not said.text:
            return []
        self.oracle.said, self.oracle.stem = said, ""
        self.broken = self.pick.random() < 0.01
        before = len(conversation.transcript)
        turn = desk.turn(conversation, said.text)
        self.now += timedelta(minutes=self.pick.randrange(1, 9))
        messages = conversation.transcript[before:]
        place = next(n for n, message in enumerate(messages) if message.role == "user")
        told = [Piece(*m) for m in messages[:place] if Piece(*m) not in shared]
        rest = [self._learnt(message, turn.reply) for message in messages[place + 2 :]]
        return [*told, *pieces, *rest]

    def _learnt(self, message: Message, reply: str) -> Piece:
        if message.role != "assistant":
            return Piece(*message)
        return Piece(*message, learn=len(self.oracle.stem) if message.content == reply else -1)

    # -- what the customer says next

    def _message(self, conversation: Conversation) -> Said:
        question = conversation.state.question
        self.speaker.offered = _offered(question)
        if question and self.pick.random() < 0.78:
            return self._answer(question)
        said = self._unprompted(conversation)
        self.speaker.offered = ()
        return said

    def _answer(self, question: Question) -> Said:
        """What customers do with an open question: mostly answer it."""
        chance, speaker = self.pick.random(), self.speaker
        if question.kind in ("yes", "human"):
            return self._yes_or_no(question, chance)
        if question.kind == "order":
            if chance < 0.80:
                return speaker.answer("give_order", question.wish.intent)
            return (
                speaker.bare("deny", "deny")
                if chance < 0.92
                else speaker.chat("hesitate", "fragment")
            )
        if question.kind == "reading":
            if chance < 0.65:
                return speaker.wish(self.pick.choice(question.readings))
            return (
                speaker.bare("deny", "deny")
                if chance < 0.8
                else speaker.chat("hesitate", "fragment")
            )
        if chance < 0.75:
            name = "give_address" if question.wish.intent == "change_address" else "give_reason"
            return speaker.answer(name, question.wish.intent)
        return (
            speaker.bare("deny", "deny") if chance < 0.90 else speaker.chat("hesitate", "fragment")
        )

    def _yes_or_no(self, question: Question, chance: float) -> Said:
        speaker, intent = self.speaker, question.wish.intent
        if chance < 0.40:
            return speaker.bare("confirm", "confirm")
        if chance < 0.58:
            return speaker.bare("deny", "deny")
        if chance < 0.64:
            return speaker.more("confirm_more", "confirm")
        if chance < 0.70:
            return speaker.more("deny_more", "deny")
        if chance < 0.78 or question.kind == "human":
            return speaker.chat("hesitate", "fragment")
        if intent == "change_address":
            return speaker.answer("correct_address", intent, "correct")
        if intent == "invoice":
            return speaker.answer("give_invoice", intent)
        if intent == "return_exchange" and chance < 0.88:
            name = "correct_remedy" if chance < 0.83 else "give_reason"
            return speaker.answer(name, intent, "correct" if name == "correct_remedy" else "ask")
        if chance < 0.95:
            return speaker.answer("correct_order", intent, "correct")
        return speaker.answer("correct_other", intent, "correct")

    def _unprompted(self, conversation: Conversation) -> Said:
        pick, speaker, last = self.pick, self.speaker, conversation.state.last
        options = {
            "wish": 55,
            "other": 16,
            "shop": 18,
            "several": 7,
            "hostile": 4,
            "card": 2,
            "number": 2,
            "loose": 4,
        }
        if last and last.intent != "other":
            options |= {"follow": 14, "aside": 8, "again": 6}
            if last.intent == "return_exchange":
                options |= {"take_back": 6, "reason": 4}
        match pick.choices(list(options), list(options.values()))[0]:
            case "other":
                return self._other()
            case "shop":
                return speaker.wish("shop_question")
            case "several":
                return speaker.several()
            case "hostile":
                return speaker.chat("hostile", "hostile")
            case "card":
                return speaker.chat("order_card", "chat")
            case "number":
                return speaker.answer("give_order", "other")
            case "loose":  # a yes or no to nothing
                return speaker.loose(pick.choice(("confirm", "deny", "dropped", "hesitate")))
            case "aside":
                return speaker.chat("aside", "chat")
            case "again":
                assert last is not None
                return speaker.answer("another_order", last.intent)
            case "take_back":
                return speaker.answer("take_back", "return_exchange")
            case "reason":
                return speaker.answer("give_reason", "return_exchange")
        return speaker.wish(pick.choice([i for i in self.handbook.intents if i not in COMMON]))

    def _other(self) -> Said:
        if self.pick.random() < 0.08:
            return self.speaker.chat("greetings", "greeting")
        return self.speaker.chat("other", "chat")


def _beside(exchanges: Sequence[list[Piece]]) -> list[Piece]:
    """The first of several exchanges, with the others as what could stand in its place."""
    (first, *rest), *others = exchanges
    return [first._replace(instead=tuple(map(tuple, others))), *rest]


def _offered(question: Question | None) -> Sequence[Any]:
    """The orders that an open question showed."""
    shown = question.facts.get("options", ()) if question and question.kind == "order" else ()
    return shown if isinstance(shown, tuple) else ()


def _wire(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
