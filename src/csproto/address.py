"""What a corrected address comes to: customers often give only the part that was wrong, and the rest of what they gave before stays.

Whatever comes out is shown as a whole and waits for the customer's yes, so a wrong guess costs a question and no parcel.
"""

import re

LONGEST = 200  # characters an order has room for
UNIT = re.compile(r"(\d[\dA-Za-z-]*)(号楼|号|弄|栋|幢|座|单元|室|楼|层|户)")
ROAD = re.compile(r"([^\d省市区县,，]+(?:路|街|大道|巷|胡同|小区|花园|村))(.*)")
PLACE = re.compile(
    r"(?:[^省市区县]{1,8}省)?(?:[^省市区县]{1,8}市)?(?:[^省市区县]{1,8}[区县市])?"
)  # 江苏省 南京市 鼓楼区
STREET = re.compile(r"(\d+[A-Za-z]?),? +([^\d,]+)")
FLAT = re.compile(r"(apt|apartment|flat|unit|room|suite|floor)\.? *#?(\w+)", re.IGNORECASE)


def corrected(old: str, new: str) -> str:
    """The address that `new` makes of `old`: `new` itself when it is complete; "" when nobody can tell what it replaces, so that it must be asked for."""
    new = new.strip()
    whole = _merged(old, new) if old else new
    return whole if len(whole) <= LONGEST else ""


def _merged(old: str, new: str) -> str:
    if re.fullmatch(r"\d+", new):
        return _number(old, new)
    if UNIT.sub("", new).strip() == "":
        return _units(old, new)
    if road := ROAD.fullmatch(new):
        return _road(old, *road.groups())
    if flat := FLAT.fullmatch(new):
        return _flat(old, new, flat[1])
    if street := STREET.fullmatch(new):
        return _street(old, new, street[2])
    return new


def _number(old: str, new: str) -> str:
    """A bare number stands for the only number there is, or for the only one of its length; a telephone number can also be added."""
    runs = list(re.finditer(r"\d+", old))
    alike = [run for run in runs if len(run[0]) == len(new)]
    for found in (runs, alike):
        if len(found) == 1:
            return old[: found[0].start()] + new + old[found[0].end() :]
    return f"{old} {new}" if len(new) >= 7 and not alike else ""


def _units(old: str, new: str) -> str:
    """House, stairs, flat: each replaces the one of its kind, or follows at the end."""
    for number, kind in UNIT.findall(new):
        pattern = re.compile(rf"\d[\dA-Za-z-]*{kind}(?!楼)")
        old = pattern.sub(number + kind, old, count=1) if pattern.search(old) else old + number + kind
    return old


def _road(old: str, road: str, rest: str) -> str:
    """Another road takes everything after city and district with it; the same road keeps what is not named anew."""
    if road in old and UNIT.sub("", rest) == "":
        head, tail = old.split(road, 1)
        return head + road + _units(tail, rest)
    place = PLACE.match(old)
    return (place[0] if place else "") + road + rest


def _flat(old: str, new: str, kind: str) -> str:
    same = re.compile(rf"\b{kind}\.? *#?\w+", re.IGNORECASE)
    return same.sub(new, old, count=1) if same.search(old) else f"{old}, {new}"


def _street(old: str, new: str, name: str) -> str:
    """Another house of the same street, or another street in the same town."""
    house = re.compile(rf"\b\d+[A-Za-z]?,? +{re.escape(name.strip())}(?!\w)", re.IGNORECASE)
    if house.search(old):
        return house.sub(lambda _: new, old, count=1)
    parts = old.split(",")
    place = next((i for i, part in enumerate(parts) if re.match(r"\s*\d+[A-Za-z]? +[A-Za-z]", part)), None)
    if place is None or len(parts) == 1:
        return new
    lead = parts[place][: len(parts[place]) - len(parts[place].lstrip())]
    return ",".join([*parts[:place], lead + new, *parts[place + 1 :]])
