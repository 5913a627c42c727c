"""Cases to measure by: messages with what is expected of each, one JSON object a line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from csproto.desk.handbook import Handbook, default_handbook
from csproto.errors import CsprotoError
from csproto.shop.facts import WriteKind

WRITE_KINDS = frozenset(get_args(WriteKind)) - {"unavailable"}


class BadCases(CsprotoError):
    """A line of an evaluation file that cannot be used."""


class Expected(BaseModel):
    """What is expected of one turn; what is left out is not measured.

    intent: of the first wish; action: of at least one decision; each one value or alternatives.
    orders: the exact set. writes: the kinds newly written, alternatives as a list of lists.
    """

    model_config = ConfigDict(extra="forbid")

    intent: str | list[str] | None = None
    orders: list[str] | None = None
    action: str | list[str] | None = None
    writes: list[str] | list[list[str]] | None = None

    @property
    def intents(self) -> list[str]:
        return _as_list(self.intent)

    @property
    def actions(self) -> list[str]:
        return _as_list(self.action)

    @property
    def write_sets(self) -> list[list[str]]:
        """The multisets of writes that are right, each sorted."""
        writes = self.writes or []
        alternatives = writes if writes and isinstance(writes[0], list) else [writes]
        return [sorted(map(str, kinds)) for kinds in alternatives]


class CaseTurn(BaseModel):
    """One message of a case."""

    model_config = ConfigDict(extra="forbid")

    text: str
    expect: Expected = Expected()


class Case(BaseModel):
    """A conversation of one turn or more with a demo customer."""

    model_config = ConfigDict(extra="forbid")

    id: str
    lang: Literal["zh", "en"]
    customer: str = "C001"
    turns: list[CaseTurn] = Field(min_length=1)


def load_cases(path: Path, handbook: Handbook | None = None) -> list[Case]:
    """The cases of a JSONL file. Raises BadCases with the number of the line that is wrong."""
    handbook = handbook or default_handbook()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadCases(f"{path} cannot be read: {error}. Name a JSONL file with --data.") from error
    cases: list[Case] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        case = _case(path, number, line)
        if case.id in seen:
            raise BadCases(
                f"{path}, line {number}: the id {case.id} stands in line {seen[case.id]} already."
            )
        seen[case.id] = number
        _check_names(path, number, case, handbook)
        cases.append(case)
    if not cases:
        raise BadCases(f"{path} holds no case. Each line is one, such as {EXAMPLE}.")
    return cases


EXAMPLE = (
    '{"id": "1", "lang": "en", "turns": '
    '[{"text": "where is my order", "expect": {"intent": "order_status"}}]}'
)


def _case(path: Path, number: int, line: str) -> Case:
    try:
        return Case.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the line"
        raise BadCases(f"{path}, line {number}: {where}: {first['msg']}.") from error


def _check_names(path: Path, number: int, case: Case, handbook: Handbook) -> None:
    """Find names that nothing can ever match: they would only ever count as wrong."""
    known = {
        "intent": set(handbook.intents),
        "action": set(handbook.actions),
        "write": set(WRITE_KINDS),
    }
    for turn in case.turns:
        expect = turn.expect
        writes = [kind for kinds in expect.write_sets for kind in kinds]
        for kind, names in (
            ("intent", expect.intents),
            ("action", expect.actions),
            ("write", writes),
        ):
            if unknown := [name for name in names if name not in known[kind]]:
                raise BadCases(
                    f"{path}, line {number}: {unknown[0]!r} is no {kind}; "
                    f"there are {_listed(known[kind])}."
                )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _as_list(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
