"""A pydantic model as a compact grammar whose every sentence is valid JSON and valid for the model.

A regular expression such as `"[^"]+"` or a plain JSON schema allows control characters,
endless white space and missing fields. This grammar has no white space, a fixed order of
fields, and only the characters that a string may hold.
"""

import re
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from csproto.errors import CsprotoError

# Every printable character but the quote and the backslash, which would need escapes. No
# control characters, surrogates, private use or line separators.
SAFE_CHARACTER = r"[ !#-\[\]-~\u00a1-\u1fff\u2010-\u2027\u2030-\u205e\u2070-\ud7ff\uf900-\ufffc]"
SAFE_TEXT = re.compile(SAFE_CHARACTER + "+")
DEFAULT_MAX_LENGTH = 100
DEFAULT_MAX_ITEMS = 8
LONGEST_REPEAT = 100
_CLASS_PATTERN = re.compile(r"^\^(\[(?:[^\]\\]|\\.)+\])\{(\d+),(\d+)\}\$$")

SPAN_CHARACTERS = 160  # of a message that a copied field may hold: one small rule each
# Where a copied text neither begins nor ends: inside a word or a number (100号 is not cut to
# 10), between a number and what it counts (501室 is not cut to 501), and beside a house number
# (22 Baker Lane is not cut to Baker Lane).
WITHIN = re.compile(r"(?<=[0-9A-Za-z])(?=[0-9A-Za-z])")
AFTER_NUMBER = re.compile(r"(?<![0-9A-Za-z-])(?<!\d )\d{1,4}[A-Za-z]? (?=[A-Za-z])")
BEFORE_NUMBER = re.compile(r"(?<=[\u3400-\u9fff])\d{1,4}(?![0-9A-Za-z])")
BEFORE_UNIT = re.compile(r"(?<=[0-9A-Za-z])(?:[室号號楼樓层層栋棟幢座弄巷]|单元|單元)")


@dataclass(frozen=True)
class Copied:
    """Marks a `str` field whose text must stand in the message that was read."""


class GrammarError(CsprotoError):
    """A model that cannot be put into a grammar, and how to change it."""


def to_ebnf(model: type[BaseModel], message: str | None = None) -> str:
    """Return the EBNF of `model` in xgrammar's notation. Its root is named `root`.

    message: if given, the fields marked `Copied` can only hold a part of it. A field that
        could hold nothing is left out.

    Supported: `str` (with `max_length`, or a `pattern` that is one character class with a
    repeat), `int`, `float`, `bool`, `Literal`, string enums, `list`, `X | None` and nested
    models. The first field must be required; others can be left out if they have a default.

    Raises GrammarError for anything else.
    """
    rules: dict[str, str] = {}
    _object(model, "root", rules, message)
    return "\n".join(f"{name} ::= {body}" for name, body in rules.items()) + "\n"


def _object(model: type[BaseModel], name: str, rules: dict[str, str], message: str | None) -> str:
    rules[name] = ""  # holds the place, so that the root comes first
    parts: list[str] = []
    for position, (key, field) in enumerate(model.model_fields.items()):
        if position == 0 and not field.is_required():
            raise GrammarError(
                f"{model.__name__}.{key} comes first and has a default: make the first field "
                "required, so that commas stay simple."
            )
        where = f"{model.__name__}.{key}"
        copied = any(isinstance(m, Copied) for m in field.metadata)
        if copied and message is not None and not field.is_required():
            value = _copied(message, rules)
            if not value:
                continue
        else:
            value = _value(_annotation(field), where, f"{name}_{key}", rules)
        pair = f"{terminal(('' if position == 0 else ',') + _json(key) + ':')} {value}"
        parts.append(pair if field.is_required() else f"({pair})?")
    rules[name] = " ".join(['"{"', *parts, '"}"'])
    return name


def _annotation(field: FieldInfo) -> Any:
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _value(kind: Any, where: str, name: str, rules: dict[str, str]) -> str:
    """Return the expression for one type. A larger one gets a rule called `name`."""
    kind, metadata = _unwrap(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is str:
        return _string(metadata, where)
    if kind is bool:
        return '("true" | "false")'
    if kind in (int, float):
        minus = "" if any(isinstance(m, Ge) and m.ge >= 0 for m in metadata) else '"-"? '
        fraction = ' ("." [0-9] [0-9]?)?' if kind is float else ""
        return f'{minus}("0" | [1-9] [0-9]{{0,8}}){fraction}'
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        values = arguments if origin is Literal else [member.value for member in kind]
        return _choice(values, where, name, rules)
    if origin in (Union, UnionType):
        if len(arguments) != 2 or NoneType not in arguments:
            raise GrammarError(
                f"{where}: of unions only `X | None` is supported; use a Literal or two fields."
            )
        inner = _value(next(a for a in arguments if a is not NoneType), where, name, rules)
        return f'({inner} | "null")'
    if origin is list:
        item = _value(arguments[0], where, f"{name}_item", rules)
        return f'"[" ({listed(item, _max_length(metadata, DEFAULT_MAX_ITEMS))})? "]"'
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _object(kind, name, rules, None)
    raise GrammarError(
        f"{where}: {kind!r} has no grammar; use str, int, float, bool, Literal, a string enum, "
        "list, X | None or a nested model."
    )


def _unwrap(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(kind) is not Annotated:
        return kind, ()
    inner, *metadata = get_args(kind)
    parts = [entry.metadata if isinstance(entry, FieldInfo) else [entry] for entry in metadata]
    return inner, tuple(item for part in parts for item in part)


def _string(metadata: tuple[Any, ...], where: str) -> str:
    pattern = next((p for m in metadata if (p := getattr(m, "pattern", None))), None)
    if pattern is None:
        return f'"\\"" {_up_to(_max_length(metadata, DEFAULT_MAX_LENGTH))} "\\""'
    match = _CLASS_PATTERN.match(pattern)
    if not match or '"' in match[1] or "\\" in match[1]:
        raise GrammarError(
            f"{where}: the pattern {pattern!r} is not one plain character class with a repeat "
            "such as ^[0-9A-Z]{6,20}$."
        )
    return f'"\\"" {match[1]}{{{match[2]},{match[3]}}} "\\""'


def _up_to(most: int) -> str:
    """Return the expression for at most so many safe characters.

    It is in pieces: above 128 repeats xgrammar 0.2.7 offers tokens that it then refuses.
    """
    pieces = [min(LONGEST_REPEAT, most - start) for start in range(0, most, LONGEST_REPEAT)]
    return " ".join(f"{SAFE_CHARACTER}{{0,{piece}}}" for piece in pieces)


def _copied(message: str, rules: dict[str, str]) -> str:
    """Return the expression for a part of the message; all copied fields share its rules.

    It is an empty text if nothing can be copied.
    """
    spans = span_rules(message[:SPAN_CHARACTERS])
    rules |= dict(rule.split(" ::= ", 1) for rule in spans)
    return '"\\"" span "\\""' if spans else ""


def span_rules(text: str) -> list[str]:
    """Return EBNF rules whose `span` is any part of the text, cut between words and numbers.

    It is a chain of rules, one for each character, that may be entered and left where a
    copy may begin and end. The list is empty if nothing of the text can be copied.
    """
    starts, ends = _cuts(text)
    steps = {
        place: f"{terminal(character)} span_{place + 1}"
        for place, character in enumerate(text)
        if SAFE_TEXT.fullmatch(character)
    }
    first = [steps[place] for place in starts if place in steps]
    if not first:
        return []
    rules = [f"span ::= {' | '.join(first)}"]
    for place in range(1, len(text) + 1):
        ways = (['""'] if place in ends else []) + ([steps[place]] if place in steps else [])
        rules.append(f"span_{place} ::= {' | '.join(ways)}")
    return rules


def _cuts(text: str) -> tuple[list[int], set[int]]:
    """Return the places of a text where a copy may begin, and where it may end."""
    edges = [place for place in range(len(text) + 1) if not WITHIN.match(text, place)]
    after_number = {match.end() for match in AFTER_NUMBER.finditer(text)}
    ends = {
        place
        for place in edges
        if not BEFORE_NUMBER.match(text, place) and not BEFORE_UNIT.match(text, place)
    }
    return [place for place in edges if place not in after_number], ends


def _max_length(metadata: tuple[Any, ...], default: int) -> int:
    return next((m.max_length for m in metadata if isinstance(m, MaxLen)), default)


def _choice(values: Any, where: str, name: str, rules: dict[str, str]) -> str:
    if not all(isinstance(value, str) for value in values):
        raise GrammarError(f"{where}: only choices between strings are supported.")
    rules[name] = " | ".join(terminal(_json(value)) for value in values)
    return name


def _json(text: str) -> str:
    return f'"{text}"'


def listed(item: str, most: int) -> str:
    """Return the expression for one to `most` items with commas between.

    For one item there is no repeat: llguidance refuses `{0,0}`.
    """
    return f'{item} ("," {item}){{0,{most - 1}}}' if most > 1 else item


def terminal(text: str) -> str:
    """Return the terminal of a grammar that is exactly this text."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
