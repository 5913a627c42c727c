"""What a shop says about its service desk.

Wishes, rules, wordings, answers and values, read from `data/`.

Another shop is another folder with the same files. Nothing here depends on a model.
"""

from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from zoneinfo import ZoneInfo

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from csproto.errors import CsprotoError
from csproto.settings import DATA

Language = Literal["zh", "en"]
Opening = Literal["none", "sorry", "thanks"]
T = TypeVar("T", bound=BaseModel)
Texts = Annotated[list[str], Field(min_length=1)]


class HandbookError(CsprotoError):
    """A file of the handbook that is missing, damaged or at odds with another one."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Slot(_Part):
    """One detail that a wish can carry. Exactly one of the kinds is set.

    choices: one of these words. copied: `text` is any part of the message, `number` a number in it.
    flag: present or not. number: a small number that the model writes itself.
    answers: a topic of `answers.yaml`. unasked: it may come with the yes, without another question.
    default: what is meant when it is left out.
    claim: filled by a program of its own, not by the triage.
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
    """A rule that can fire: its action, where it comes from, and how it is put to the customer.

    say: wordings by language, with facts in braces. ask: the question that then waits, if any.
    """

    action: str
    source: str
    openings: list[Opening] = ["none"]
    say: dict[Language, list[str]] = {}
    ask: dict[Language, Texts] = {}
    kinds: dict[str, dict[Language, Texts]] = {}  # small talk: wordings by what was said


class Example(_Part):
    """A message with the triage that an honest reader would write, for the prompt of a model.

    In a wish's file the intent is that wish. after, order: the rule whose question it answers.
    """

    text: str
    act: Literal["ask", "confirm", "deny", "correct"] = "ask"
    wishes: list[dict[str, Any]] = []
    after: str = ""
    order: str = ""


class WishFile(_Part):
    """Everything about one wish, as its file says it.

    fits: fields of an order with the values for which this wish makes sense.
    """

    intent: str
    label: dict[Language, str]
    description: str
    includes: list[str] = []
    excludes: list[str] = []
    slots: dict[str, Slot] = {}
    fits: dict[str, list[str]] = {}
    needs_order: bool = True
    each_order: bool = True  # each order gets a decision of its own; else the first one's is enough
    examples: list[Example] = []
    rules: dict[str, Rule] = {}


class DialogueFile(_Part):
    """The rules of the dialogue itself; and for the prompt, an example's orders and answers."""

    rules: dict[str, Rule]
    orders: list[dict[str, str]] = []
    examples: list[Example] = []


class Answer(_Part):
    """What the shop answers to a question about itself."""

    label: dict[Language, str]
    question: dict[Language, str]
    answer: dict[Language, str]
    source: str


class Lexicon(_Part):
    """Words with which a clear yes or no begins, and what may stand before them."""

    yes: dict[Language, list[str]]
    no: dict[Language, list[str]]
    fillers: dict[Language, list[str]]
    not_yes: dict[Language, list[str]]


class Values(_Part):
    """The shop's numbers: `shop.yaml`. Windows are in days unless the name says hours."""

    timezone: str
    windows: dict[str, int]
    not_returnable: list[str]
    risk: dict[str, dict[str, Any]]
    review_from: int
    block_from: int
    labels: dict[str, dict[str, dict[Language, str]]]

    @cached_property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


class Handbook:
    """A shop's files, checked against each other.

    Raises HandbookError for a file that cannot be used.
    """

    def __init__(self, folder: Path = DATA) -> None:
        self.folder = folder
        files = sorted((folder / "wishes").glob("*.yaml"))
        wishes = [self._read(path, WishFile) for path in files]
        self.wishes: dict[str, WishFile] = {wish.intent: wish for wish in wishes}
        self.values = self._read(folder / "shop.yaml", Values)
        self.lexicon = self._read(folder / "lexicon.yaml", Lexicon)
        self.answers = self._table(folder / "answers.yaml", Answer)
        self.openings: dict[Opening, dict[Language, list[str]]] = self._raw(
            folder / "openings.yaml"
        )
        dialogue = self._read(folder / "dialogue.yaml", DialogueFile)
        self.rules: dict[str, Rule] = dict(dialogue.rules)
        self.example_orders, self.examples = dialogue.orders, dialogue.examples
        for wish in wishes:
            self.rules |= wish.rules

    @property
    def intents(self) -> list[str]:
        """The wishes, in the order of their files."""
        return list(self.wishes)

    @property
    def actions(self) -> frozenset[str]:
        """Every action that a rule can lead to."""
        return frozenset(rule.action for rule in self.rules.values())

    def label(self, group: str, value: str, language: Language) -> str:
        """A word of `shop.yaml` in the customer's language, such as the state `shipped`."""
        return self.values.labels[group][value][language]

    def _read(self, path: Path, kind: type[T]) -> T:
        return self._checked(path, kind, self._raw(path))

    def _table(self, path: Path, kind: type[T]) -> dict[str, T]:
        return {name: self._checked(path, kind, value) for name, value in self._raw(path).items()}

    def _raw(self, path: Path) -> Any:
        try:
            return yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise HandbookError(
                f"{path} cannot be read: {error}. Compare it with the file in data/."
            ) from error

    def _checked(self, path: Path, kind: type[T], raw: Mapping[str, Any]) -> T:
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
    """The demo shop's handbook, in `data/`."""
    return Handbook()
