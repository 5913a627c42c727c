"""The shop's handbook: wishes, rules, wordings, answers and values, read from `data/`.

Another shop has another folder with the same files. Nothing here depends on a model.
"""

from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, TypeVar, get_args
from zoneinfo import ZoneInfo

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from csproto.errors import CsprotoError
from csproto.settings import DATA
from csproto.shop.facts import OrderView

Language = Literal["zh", "en"]
Opening = Literal["none", "sorry", "thanks"]
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


def _in_every_language(words: dict[Language, T]) -> dict[Language, T]:
    """Refuse words that are missing in a language; none at all are allowed."""
    if words and (missing := set(get_args(Language)) - words.keys()):
        raise ValueError(f"nothing in {min(missing)}")
    return words


Word = Annotated[dict[Language, str], AfterValidator(_in_every_language)]
Words = Annotated[dict[Language, list[str]], AfterValidator(_in_every_language)]
Texts = Annotated[list[str], Field(min_length=1)]
Replies = Annotated[dict[Language, Texts], AfterValidator(_in_every_language)]


class HandbookError(CsprotoError):
    """A file of the handbook is missing, or its content is not of the required form."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Slot(_Part):
    """One detail that a wish can have.

    One of these fields says what its value can be:
    - choices: one of these words.
    - copied: for `text` any part of the message, for `number` a number in the message.
    - flag: true, or left out.
    - number: a single digit.
    - answers: a topic of `answers.yaml`.

    The other fields can be added to any of them:
    - meaning: explains the slot to the model.
    - unasked: a yes stays a yes if it comes with this detail; nothing is asked again.
    - default: what is meant if the slot is left out.
    - claim: a second model call fills the slot, and the triage does not have it.
    """

    meaning: str
    choices: list[str] = []
    copied: Literal["", "text", "number"] = ""
    flag: bool = False
    number: bool = False
    answers: bool = False
    unasked: bool = False
    default: str = ""
    claim: bool = False


class Rule(_Part):
    """One rule: what the desk does, why, and the wordings for the customer.

    action: what the desk does.
    source: the law or guide that the rule comes from.
    waits: what the rule's question waits for: a yes, a missing detail, or a yes to a human.
    openings: the openings that may stand before a wording.
    say: the wordings by language, with the names of facts in braces.
    ask: the wordings of the question at the end of the reply, for a rule that asks
        something; {orders} in them are all orders that it asks about.
    """

    action: str
    source: str
    waits: Literal["yes", "detail", "human"] = "yes"
    openings: list[Opening] = ["none"]
    say: Words = {}
    ask: Replies = {}
    kinds: dict[str, Replies] = {}  # small talk: wordings by kind

    @field_validator("ask")
    @classmethod
    def _about_every_order(cls, ask: dict[Language, list[str]]) -> dict[Language, list[str]]:
        """Refuse a question about one order: the desk asks one question about several."""
        for wording in (wording for wordings in ask.values() for wording in wordings):
            names = {name for _, name, *_ in Formatter().parse(wording) if name}
            if one := names & {"order", "item"}:
                raise ValueError(
                    f"{wording!r} has {{{min(one)}}}, but a question may be about several "
                    "orders: write {orders}"
                )
        return ask


class ExampleOrder(_Part):
    """An order that the examples speak of, as the model sees it; `names` as in OrderView."""

    id: str
    item: str
    state: str
    day: str
    names: str = ""


class Example(_Part):
    """An example for a model's prompt: a message and the triage expected for it.

    act, wishes: the expected triage. In the file of a wish, an entry of `wishes` has
    that wish's intent unless it names one. after, order: if the message answers a
    question, the rule that asked and the number of the order that it asked about.
    """

    text: str
    act: Literal["ask", "confirm", "deny", "correct"] = "ask"
    wishes: list[dict[str, Any]] = []
    after: str = ""
    order: str = ""


class WishFile(_Part):
    """The file of one wish.

    label: the wish's name for customers.
    description, includes, excludes: explain the wish to the model.
    fits: fields of an order, with the values for which this wish makes sense.
    suggestion: a message with this wish, offered to the customer for an order that fits;
        {order} and {item} stand for the order's number and article.
    deed: what it asks for, as a noun.
    at_once: whether it calls a human without another question.
    needs_order: whether the wish is about an order.
    each_order: whether every order named gets a decision; otherwise only the first one
        does.
    examples: for the prompt of every model.
    spare: more examples; a model's profile names those that help it.
    """

    intent: str
    label: Word
    deed: Word
    description: str
    includes: list[str] = []
    excludes: list[str] = []
    slots: dict[str, Slot] = {}
    fits: dict[str, list[str]] = {}
    suggestion: Word = {}
    at_once: bool = False
    needs_order: bool = True
    each_order: bool = True
    examples: list[Example] = []
    spare: list[Example] = []
    rules: dict[str, Rule] = {}

    def suits(self, order: OrderView) -> bool:
        """Return whether this wish makes sense for an order."""
        return all(getattr(order, name) in values for name, values in self.fits.items())


class DialogueFile(_Part):
    """The rules of the dialogue itself, and examples of a dialogue for the prompt.

    orders: the orders that all examples are about.
    """

    rules: dict[str, Rule]
    orders: list[ExampleOrder] = []
    examples: list[Example] = []


class Answer(_Part):
    """The shop's answer to a question about the shop."""

    label: Word
    question: Word
    answer: Word
    source: str


class Openings(_Part):
    """What may stand before a wording."""

    none: Words
    sorry: Words
    thanks: Words


class Lexicon(_Part):
    """Words that decide whether a message begins with a clear yes.

    yes: words and short phrases that are a clear yes.
    firm: those of them after which a clause may go on.
    no: words that take a yes back if a later clause, or the rest of its own, begins
        with one.
    fillers: words that may stand before a yes.
    narrows: words that may narrow a yes or take it back, wherever they stand.
    more: words by which a yes takes in something that was not asked about.
    asks: words that make the clause of a yes a question or a condition.
    question_ends: endings of a clause that is a question.
    not_yes: beginnings of a clause that look like a yes and are none.
    """

    yes: Words
    no: Words
    fillers: Words
    firm: Words
    narrows: Words
    more: Words
    asks: Words
    question_ends: list[str]
    not_yes: Words


class Values(_Part):
    """The values in `shop.yaml`.

    windows: time limits in days, or in hours if the name says so.
    not_returnable: categories of goods.
    risk: the points of each sign of a risky payment.
    review_from, block_from: from so many points on, a payment is reviewed or blocked.
    labels: words by group, value and language.
    """

    timezone: str
    windows: dict[str, int]
    not_returnable: list[str]
    risk: dict[str, dict[str, Any]]
    review_from: int
    block_from: int
    labels: dict[str, dict[str, Word]]

    @cached_property
    def zone(self) -> ZoneInfo:
        """The shop's time zone."""
        return ZoneInfo(self.timezone)


class Handbook:
    """All the files of a shop, each checked for the fields it must and may have.

    Raises HandbookError for a file that cannot be used.
    """

    def __init__(self, folder: Path = DATA) -> None:
        self.wishes: dict[str, WishFile] = {}
        for path in sorted((folder / "wishes").glob("*.yaml")):
            wish = self._read(path, WishFile)
            if wish.intent != path.stem:
                raise HandbookError(f"{path} is the file of {wish.intent!r}: name it so.")
            self.wishes[wish.intent] = wish
        self.values = self._read(folder / "shop.yaml", Values)
        self.lexicon = self._read(folder / "lexicon.yaml", Lexicon)
        self.answers = self._table(folder / "answers.yaml", Answer)
        self.openings: dict[str, Words] = dict(self._read(folder / "openings.yaml", Openings))
        dialogue = self._read(folder / "dialogue.yaml", DialogueFile)
        self.rules: dict[str, Rule] = dict(dialogue.rules)
        self.example_orders, self.examples = dialogue.orders, dialogue.examples
        for wish in self.wishes.values():
            if twice := wish.rules.keys() & self.rules.keys():
                raise HandbookError(
                    f"The rule {min(twice)} stands in two files: rename one of them."
                )
            self.rules |= wish.rules

    @property
    def intents(self) -> list[str]:
        """The intents, sorted by the names of their files."""
        return list(self.wishes)

    @property
    def actions(self) -> frozenset[str]:
        """Every action that a rule can lead to."""
        return frozenset(rule.action for rule in self.rules.values())

    def label(self, group: str, value: str, language: Language) -> str:
        """Return a word of `shop.yaml` in a language, such as the one for `shipped`."""
        return self.values.labels[group][value][language]

    def _read(self, path: Path, kind: type[Model]) -> Model:
        return self._checked(path, kind, self._raw(path))

    def _table(self, path: Path, kind: type[Model]) -> dict[str, Model]:
        return {name: self._checked(path, kind, value) for name, value in self._raw(path).items()}

    def _raw(self, path: Path) -> Any:
        try:
            return yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise HandbookError(
                f"{path} cannot be read: {error}. Compare it with the file in data/."
            ) from error

    def _checked(self, path: Path, kind: type[Model], raw: Mapping[str, Any]) -> Model:
        try:
            return kind.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise HandbookError(
                f"{path}: {where}: {first['msg']}. Compare it with the file in data/."
            ) from error


@cache
def default_handbook() -> Handbook:
    """Return the demo shop's handbook, which is in `data/`."""
    return Handbook()
