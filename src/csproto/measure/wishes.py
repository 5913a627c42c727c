"""What customers can want and what the desk then does, written to docs/wishes.md from `data/`."""

from csproto.desk.handbook import Handbook, Rule, Slot, WishFile, default_handbook
from csproto.settings import REPOSITORY

PAGE = REPOSITORY / "docs" / "wishes.md"
HEAD = """# What customers can want, and what the desk then does

Written by `python -m csproto.measure.wishes` from `data/wishes/` and `data/dialogue.yaml`. The
descriptions are what a model reads in its prompt, what the corpus teaches and what the evaluation
sets expect. Which rule applies is decided by the function of the wish's name in
`src/csproto/desk/policy.py`; `docs/replies.md` has the wordings.

Where a message could be two things:

- The wish outweighs the mood: late and angry is `urge_shipment`, unless it says complain.
- A question that only asks how something works is `shop_question`, and nothing is written.
- A negation, a hypothetical, a story or a quotation asks for nothing: `other`.
- Several wishes are written in the order of the message, three at most.
- A reason, an address and the like are copied from the message, without the words around them.
"""


def page(handbook: Handbook) -> str:
    """Return the page: one section a wish, then the rules of the dialogue itself."""
    lines = [HEAD]
    for wish in handbook.wishes.values():
        lines += _wish(wish)
    own = {name for wish in handbook.wishes.values() for name in wish.rules}
    rest = {name: rule for name, rule in handbook.rules.items() if name not in own}
    lines += ["## The dialogue itself", "", *_rules(rest)]
    return "\n".join(lines).rstrip() + "\n"


def _wish(wish: WishFile) -> list[str]:
    """Return the section of one wish."""
    lines = [f"## `{wish.intent}`: {wish.label['zh']} / {wish.label['en']}", ""]
    lines += [" ".join(wish.description.split()), ""]
    lines += [f"- also: {text}" for text in wish.includes]
    lines += [f"- not: {text}" for text in wish.excludes]
    if fits := " and ".join(f"{name} {', '.join(v)}" for name, v in wish.fits.items()):
        lines.append(f"- if no order is named, it can be about an order with: {fits}")
    lines.append("")
    if wish.slots:
        lines += ["| detail | values | meaning |", "|---|---|---|"]
        lines += [f"| {n} | {_values(slot)} | {slot.meaning} |" for n, slot in wish.slots.items()]
        lines.append("")
    return [*lines, *_rules(wish.rules)]


def _values(slot: Slot) -> str:
    """Return what values a detail can have, in words."""
    if slot.choices:
        default = f" (left out: {slot.default})" if slot.default else ""
        return ", ".join(slot.choices) + default
    if slot.answers:
        return "a topic of `data/answers.yaml`"
    if slot.copied:
        return f"{slot.copied} copied from the message"
    return "a digit" if slot.number else "yes, or left out"


def _rules(rules: dict[str, Rule]) -> list[str]:
    """Return the table of some rules."""
    lines = ["| rule | action | then waits for | source |", "|---|---|---|---|"]
    for name, rule in rules.items():
        waits = rule.waits if rule.ask else "-"
        lines.append(f"| `{name}` | `{rule.action}` | {waits} | {rule.source} |")
    return [*lines, ""]


def main() -> None:
    """Write docs/wishes.md."""
    PAGE.write_text(page(default_handbook()), encoding="utf-8")
    print(f"Wrote {PAGE}.")


if __name__ == "__main__":
    main()
