"""Replies in English beside the Chinese ones, for readers of the notebooks."""

from csproto.desk.handbook import Handbook
from csproto.desk.reply import alternatives
from csproto.desk.state import Outcome, State
from csproto.desk.turn import Turn


def in_english(turn: Turn, handbook: Handbook) -> str:
    """Return the shop's plainest English wording for the decisions of a turn.

    It has the same rules and facts as the reply, but not the reply's opening words. A
    question that was only repeated is left out.
    """
    outcome = Outcome(turn.decisions, State(question=turn.question))
    return alternatives(outcome, handbook, "en")[0]
