"""The buttons below a reply.

Pressing a button sends the button's text as a message, so the conversation is the same
as if the customer had typed that text.
"""

from csproto.desk.handbook import Handbook, Language
from csproto.desk.state import Question

YES = {"zh": "是", "en": "Yes"}
NO = {"zh": "否", "en": "No"}
HUMAN = {"zh": "转人工", "en": "Talk to a person"}


def choices(
    question: Question | None, handbook: Handbook, language: Language
) -> list[dict[str, str]]:
    """Return the buttons that answer the open question.

    They are yes and no, or the orders to choose from, or the two wishes to choose from
    and a human. The list is empty if no question is open or the answer is free text.
    Each button has a `kind`, a `label` to show and the `text` that it sends.
    """
    if question is None:
        return []
    match question.kind:
        case "yes" | "human":
            texts = [("yes_no", YES[language]), ("yes_no", NO[language])]
            return [_choice(kind, text, text) for kind, text in texts]
        case "reading":
            labels = [handbook.wishes[intent].label[language] for intent in question.readings]
            human = [] if "human_agent" in question.readings else [_human(language)]
            return [_choice("reading", label, label) for label in labels] + human
        case "order":
            return _orders(question, handbook, language)
    return []


def _orders(question: Question, handbook: Handbook, language: Language) -> list[dict[str, str]]:
    shown = question.facts.get("options", ())
    found = []
    for order in shown if isinstance(shown, tuple) else ():
        state = handbook.label("status", order.status, language)
        found.append(_choice("order", f"{order.item} · {order.id} · {state}", order.id))
    return found


def _human(language: Language) -> dict[str, str]:
    return _choice("human", HUMAN[language], HUMAN[language])


def _choice(kind: str, label: str, text: str) -> dict[str, str]:
    return {"kind": kind, "label": label, "text": text}
