"""Personal data kept out of what outlives a conversation.

Where a customer's own words go, and what becomes of them there:
- a log line holds them masked, by `masked`; texts of database errors quote no values (`store.open_engine`), errors of a triage no input (`triage.Triage`);
- an audit row holds none;
- a ticket holds them as they were said: whoever works on it may have to ring back or send something;
- the conversation holds them as it must in order to go on, and a `Turn` shows them to whoever asked in the customer's name: it is their own;
- `csproto db forget` erases tickets, audit rows and conversations with the customer.
"""

import re
from collections.abc import Iterable

EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
PHONE = re.compile(r"(?<![0-9A-Za-z])(?:\+\d{1,3}[ -]?)?(?:1[3-9]\d(?:[ -]?\d){8}|0\d{2,3}[ -]?\d{7,8}|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4})(?!\d)")  # fmt: skip
NUMBER = re.compile(
    r"\d(?:[ -]?\d){8,}[Xx]?"
)  # of a card, an identity, an account: order ids that are longer are named by the caller
ROOM = r"(?:号楼|号|弄|栋|幢|座|单元|室|楼|层|户)"
ADDRESS_ZH = re.compile(
    r"[\u4e00-\u9fff]{1,24}(?:路|街|大道|巷|弄|胡同|村|镇|小区|花园|苑|广场|大厦|公寓)[\u4e00-\u9fff]{0,6}"
    rf"\d[\dA-Za-z-]*{ROOM}?(?:[\u4e00-\u9fff]{{0,4}}\d[\dA-Za-z-]*{ROOM}?)*"
)
ADDRESS_EN = re.compile(
    r"\b\d{1,5}[a-z]?,? +(?:(?!(?:the|my|your|our|on|in|at)\b)[\w'.-]+ +){1,4}?(?:street|st|road|rd|avenue|ave|row|lane|ln|drive|dr|boulevard|blvd|court|ct|square|sq|close|terrace|crescent)\b\.?"
    r"(?:,? *(?:apt|flat|unit|suite|room|#)\.? *\w+)?(?:, *[\w -]+){0,3}",
    re.IGNORECASE,
)
KINDS = (("e-mail", EMAIL), ("address", ADDRESS_ZH), ("address", ADDRESS_EN), ("phone", PHONE), ("number", NUMBER))


def masked(text: str, keep: Iterable[str] = ()) -> str:
    """A text without telephone numbers, e-mail addresses, postal addresses and numbers of nine digits or more.

    keep: order ids, which stay however they are spaced.
    """
    ids = [r"[ -]*".join(map(re.escape, name)) for name in sorted(keep, key=len, reverse=True) if name]
    if not ids:
        return _masked(text)
    pieces = re.split(rf"((?<!\d)(?:{'|'.join(ids)})(?!\d))", text)
    return "".join(piece if place % 2 else _masked(piece) for place, piece in enumerate(pieces))


def _masked(text: str) -> str:
    for name, pattern in KINDS:
        text = pattern.sub(f"[{name}]", text)
    return text
