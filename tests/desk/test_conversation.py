"""A conversation in the database, and a long one that leaves its oldest turns behind."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from rehearsed import wish
from sqlalchemy.orm import Session
from support import NOW

from csproto.desk.conversation import (
    KEPT_TURNS,
    WINDOW_CHARS,
    Conversation,
    ConversationUnknown,
    UnderWay,
    resume,
)
from csproto.desk.state import Outcome
from csproto.desk.transcript import Message, opening
from csproto.shop.orders import OrderApi
from csproto.shop.store import ConversationRow

ZONE = ZoneInfo("Asia/Shanghai")


def test_it_comes_back_as_it_was_saved(engine, customer) -> None:
    c016 = customer("C016").hears(
        "cancel 160001 and 160002", wish("cancel_order", "160001", "160002")
    )
    c016.hears("wait, where is 160003?", wish("order_status", "160003"))
    seen = OrderApi(engine).facts("C016").orders
    conversation = Conversation(
        "C016", datetime(2026, 3, 1, tzinfo=UTC), language="en", state=c016.state, seen=seen
    )
    conversation.transcript = [opening(seen, ZONE), Message("user", "hi")]
    conversation.under_way = UnderWay(
        "hi", NOW, "{}", 0.9, "other", Outcome(c016.outcome.decisions, c016.state)
    )
    conversation.save(engine)
    conversation.save(engine)
    again = resume(engine, conversation.id, "C016")
    assert again == conversation
    with Session(engine) as session:
        assert session.query(ConversationRow).count() == 1


def test_another_customers_conversation_is_unknown(engine) -> None:
    conversation = Conversation("C001", datetime(2026, 3, 1, tzinfo=UTC))
    conversation.save(engine)
    for customer_id, conversation_id in (("C002", conversation.id), ("C001", "nothing")):
        with pytest.raises(ConversationUnknown):
            resume(engine, conversation_id, customer_id)


def test_a_long_one_keeps_its_last_turns_and_tells_the_orders_anew(engine) -> None:
    seen = OrderApi(engine).facts("C001").orders
    start = opening(seen, ZONE)
    conversation = Conversation(
        "C001", datetime(2026, 3, 1, tzinfo=UTC), transcript=[start], seen=seen
    )
    turn = "x" * (WINDOW_CHARS // 4)
    for number in range(5):
        conversation.transcript += [Message("user", f"{number}{turn}"), Message("assistant", "{}")]
    conversation.computed_tokens = 900
    conversation.trim(ZONE)
    users = [message.content[0] for message in conversation.transcript if message.role == "user"]
    assert users == list("01234"[-KEPT_TURNS:])
    assert conversation.computed_tokens == 0
    assert conversation.transcript[0].role == "system"
    assert conversation.transcript[0] != start  # another nonce
