"""The messages that every conversation begins with, built from the wish files for any model.

They are long, and that is the point: they are the same for all customers, so the prefix cache
computes them once.
"""

from csproto.desk.handbook import Handbook, WishFile
from csproto.desk.profile import Profile
from csproto.desk.transcript import Message

TASK = """\
You read the messages of an online shop's customers, in Chinese or English, and write down what \
each wants as one line of JSON. A system message lists the customer's orders, newest first. You \
never answer the customer yourself: the shop's rules decide, and you only pick among their words.

FORMAT  {"act":...,"wishes":[{"intent":...,"orders":[...],...}]}
- act: left out for a wish or anything else; "confirm" for a clear yes to the shop's open \
question, "deny" for a no, "correct" when the customer puts right something said before.
- wishes: one to three, in the order of the message; none for a bare yes or no.
- orders: ids of the customer's orders that the message speaks of: by number, part of a number, \
article, place in the list, "both", "all". Left out when none is named. A number that is none of \
theirs is copied as it stands. Phone numbers, amounts and dates are no orders.
- Further fields of a wish are left out when the message does not say them.

INTENTS
"""


def prompt_messages(profile: Profile, handbook: Handbook) -> tuple[Message, ...]:
    """The profile's own prompt, else the one that the wish files make."""
    if profile.prompt:
        return (Message("system", profile.prompt),)
    return (Message("system", instructions(handbook)),)


def instructions(handbook: Handbook) -> str:
    """What a model is told about its task and about each wish."""
    return TASK + "\n".join(_described(wish, handbook) for wish in handbook.wishes.values())


def _described(wish: WishFile, handbook: Handbook) -> str:
    lines = [f"{wish.intent}: {' '.join(wish.description.split())}"]
    lines += [f"  also: {entry}" for entry in wish.includes]
    lines += [f"  not: {entry}" for entry in wish.excludes]
    for name, slot in wish.slots.items():
        if not slot.claim:
            words = slot.choices or (list(handbook.answers) if slot.answers else [])
            choices = f" ({', '.join(words)})" if words else ""
            lines.append(f"  {name}{choices}: {slot.meaning}")
    return "\n".join(lines)
