"""Decides whether a message is a clear yes to the open question, and to which orders of it.

The model has read the message as a yes. That alone changes nothing: the words of the
message must be a clear yes, too, and the desk asks again wherever they may mean less
than what it asked.
"""

from csproto.desk.handbook import Lexicon
from csproto.desk.lexicon import asks, begins_with_yes, may_narrow, says_more
from csproto.desk.references import matches
from csproto.desk.state import Question, Reading
from csproto.shop.facts import CustomerFacts


class Yes:
    """A message that the model has read as a yes to a question.

    about: the question's orders that the message names, by number or article; empty if it
        names none.
    """

    def __init__(
        self, reading: Reading, question: Question, facts: CustomerFacts, lexicon: Lexicon
    ) -> None:
        self.reading, self.question, self.lexicon = reading, question, lexicon
        self.wishes = reading.triage.wishes
        self.found = matches(reading.text, facts.orders)
        self.asked = question.wish.orders
        said = {o for wish in self.wishes for o in wish.orders}
        named = said | {order for order, _ in self.found}
        self.about = tuple(order for order in self.asked if order in named)

    @property
    def is_clear(self) -> bool:
        """Whether the words are a yes to just this question.

        - The message begins with a yes of the lexicon.
        - If the model read nothing but a yes, the message has no question in it: "ok,
          what does that cost?" still wants an answer.
        - It names no order beyond the question's, unless a word such as "also" says that
          this order comes on top: "yes, cancel 160002" is no yes to a question about
          160001.
        """
        text = self.reading.text
        if not begins_with_yes(text, self.lexicon):
            return False
        if not self.wishes and asks(text, self.lexicon):
            return False
        comes_on_top = says_more(text, self.lexicon) and not may_narrow(text, self.lexicon)
        return not self._further() or comes_on_top

    @property
    def is_whole(self) -> bool:
        """Whether a clear yes means all that was asked, or just the orders it names.

        It may not if a word such as "except" stands anywhere in it, unless that belongs
        to another wish of the message.
        """
        about = {self.question.wish.intent, "other"}
        if all(w.intent in about and {*w.orders} <= {*self.asked} for w in self.wishes):
            return not may_narrow(self.reading.text, self.lexicon)
        return True

    def _further(self) -> set[str]:
        """Return the orders that the message names and the question does not.

        Orders of another wish in the message do not count, nor does an article that
        shares the word with one that was asked about. The offer of a human is about no
        order.
        """
        if self.question.kind == "human":
            return set()
        about = {self.question.wish.intent, "other"}
        elsewhere = {o for w in self.wishes if w.intent not in about for o in w.orders}
        named = {o for w in self.wishes if w.intent in about for o in w.orders}
        own_words = {word for order, word in self.found if order in self.asked}
        named |= {order for order, word in self.found if word not in own_words}
        return named - {*self.asked} - elsewhere
