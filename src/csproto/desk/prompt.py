"""Builds the messages that a model reads before every transcript.

They can be long: they are the same for all customers, so the server computes them once
and then takes them from its prefix cache.
"""

from csproto.desk.guess import Guess, no_guess
from csproto.desk.handbook import Example, Handbook, HandbookError, WishFile
from csproto.desk.profile import Profile
from csproto.desk.reply import language_of
from csproto.desk.transcript import NONCE_DIGITS, Message, decided, hints, to_json
from csproto.desk.triage import Triage, Wish

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
theirs is copied as it stands. Phone numbers, amounts and dates are no orders. A system message \
"matches" lists what the message shares with an order; that can be chance. "guess" lists what a \
word counter takes the message for, with percentages; it is often right, but sees neither orders \
nor dialogue.
- Further fields of a wish are left out when the message does not say them.

INTENTS
"""


def prompt_messages(
    profile: Profile, handbook: Handbook, guess: Guess = no_guess
) -> tuple[Message, ...]:
    """Return the prompt of the profile, or else one built from the wish files.

    guess: what the examples have as the first guess.

    Raises HandbookError for an example that answers a question which cannot be put, or
    that no wish file has.
    """
    if profile.prompt:
        return (Message("system", profile.prompt),)
    chosen = [_spare(text, handbook) for text in profile.examples]
    return (
        Message("system", instructions(handbook)),
        *example_messages(handbook, guess),
        # At the end: what stands before them stays in the server's prefix cache.
        *(message for e, intent in chosen for message in _exchange(e, intent, handbook, guess)),
    )


def spare_examples(handbook: Handbook) -> dict[str, list[Example]]:
    """Return the spare examples of each wish file, by intent."""
    return {intent: wish.spare for intent, wish in handbook.wishes.items()}


def _spare(text: str, handbook: Handbook) -> tuple[Example, str]:
    """Return the spare example with a text, and its wish's intent."""
    for intent, examples in spare_examples(handbook).items():
        for example in examples:
            if example.text == text:
                return example, intent
    raise HandbookError(
        f"The model's profile names the example {text!r}, which no wish file has under `spare`. "
        "Take it out of the profile's `examples`, or choose them anew with "
        "`csproto model prompt --tune`."
    )


def instructions(handbook: Handbook) -> str:
    """Return the text that explains the task and each wish to a model."""
    return TASK + "\n".join(_described(wish, handbook) for wish in handbook.wishes.values())


def _described(wish: WishFile, handbook: Handbook) -> str:
    """Return the part of the instructions about one wish."""
    lines = [f"{wish.intent}: {' '.join(wish.description.split())}"]
    lines += [f"  also: {entry}" for entry in wish.includes]
    lines += [f"  not: {entry}" for entry in wish.excludes]
    for name, slot in wish.slots.items():
        if not slot.claim:
            words = slot.choices or (list(handbook.answers) if slot.answers else [])
            choices = f" ({', '.join(words)})" if words else ""
            lines.append(f"  {name}{choices}: {slot.meaning}")
    return "\n".join(lines)


def example_messages(handbook: Handbook, guess: Guess = no_guess) -> list[Message]:
    """Return example messages in the same form as a transcript.

    They show each wish, and each way to answer a question. Raises HandbookError.
    """
    listed = [
        {"n": place} | order.model_dump(exclude={"names"})
        for place, order in enumerate(handbook.example_orders, start=1)
    ]
    messages = [Message("system", to_json({"nonce": "0" * NONCE_DIGITS, "orders": listed}))]
    for intent, wish in handbook.wishes.items():
        for example in wish.examples:
            messages += _exchange(example, intent, handbook, guess)
    for example in handbook.examples:
        messages += _asked(example, handbook) + _exchange(example, "", handbook, guess)
    return messages


def _exchange(example: Example, intent: str, handbook: Handbook, guess: Guess) -> list[Message]:
    """Return an example's message, what is told before it, and the JSON to write for it.

    intent: the intent of wishes that name none.
    """
    wishes = []
    for entry in example.wishes:
        slots = {n: value for n, value in entry.items() if n not in ("intent", "orders")}
        wishes.append(Wish(entry.get("intent", intent), tuple(entry.get("orders", ())), slots))
    wire = Triage(example.act, tuple(wishes)).to_wire()
    shared = hints(example.text, handbook.example_orders, guess(example.text))
    return [*shared, Message("user", example.text), Message("assistant", wire)]


def _asked(example: Example, handbook: Handbook) -> list[Message]:
    """Return the messages before an example: the question that it answers, if any."""
    if not example.after:
        return []
    language = language_of(example.text, "en")
    item = next((o.item for o in handbook.example_orders if o.id == example.order), None)
    if item is None:
        raise _wrong(example, f"its order {example.order!r} is none of the example orders")
    try:
        rule = handbook.rules[example.after]
        words = rule.ask[language][0].format(
            orders=f"{example.order} ({item})", remedy=handbook.label("remedy", "refund", language)
        )
    except (KeyError, IndexError) as error:
        raise _wrong(
            example,
            f"the question of the rule {example.after!r} needs or lacks {error}; an example can "
            "follow a question with the placeholders {orders} and {remedy} alone",
        ) from error
    return [decided([(rule.action, example.order)]), Message("assistant", words)]


def _wrong(example: Example, why: str) -> HandbookError:
    return HandbookError(f"The example {example.text!r} cannot be put into the prompt: {why}.")
