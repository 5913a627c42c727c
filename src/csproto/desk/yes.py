"""Decides whether a message is a clear yes to the open question."""

from csproto.desk.handbook import Lexicon
from csproto.desk.lexicon import asks, begins_with_yes, says_more
from csproto.desk.references import matches
from csproto.desk.state import Question, Reading
from csproto.shop.facts import CustomerFacts


def is_clear_yes(
    reading: Reading, question: Question, facts: CustomerFacts, lexicon: Lexicon
) -> bool:
    """Return whether the words of a message are a yes to just this question.

    The model has read the message as a yes. Its words must be one, too:

    - The message begins with a yes of the lexicon.
    - If the model read nothing but a yes, the message has no question in it: "ok, what
      does that cost?" still wants an answer.
    - It names no order beyond the question's, unless a word such as "also" says that
      this order comes on top: "yes, cancel 160002" is no yes to a question about
      160001. Orders that belong to another wish of the message do not count.
    """
    text, wishes = reading.text, reading.triage.wishes
    if not begins_with_yes(text, lexicon) or (not wishes and asks(text, lexicon)):
        return False
    about = {question.wish.intent, "other"}
    elsewhere = {o for wish in wishes if wish.intent not in about for o in wish.orders}
    named = {o for wish in wishes if wish.intent in about for o in wish.orders}
    by_number = [o for o, by in matches(text, facts.orders) if any(c.isdigit() for c in by)]
    further = {*named, *by_number} - {*question.wish.orders} - elsewhere
    return not further or says_more(text, lexicon)
