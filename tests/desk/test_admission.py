"""Which messages the desk takes: one at a time in a conversation, and not too many a minute."""

from dataclasses import replace

import pytest
from scripted import says, scripted
from sqlalchemy.engine import Engine
from support import NOW

from csproto import settings
from csproto.desk.admission import Admission, MessageRefused
from csproto.desk.conversation import Conversation
from csproto.engine.endpoint import StopSignal
from csproto.shop.orders import OrderApi


def test_a_conversation_runs_one_turn_at_a_time_and_others_beside_it(engine: Engine) -> None:
    desk = scripted(OrderApi(engine), says("other"))
    first, second = desk.open("C001"), desk.open("C001")
    under_way = desk.stream(first, "你好")
    next(under_way)
    with pytest.raises(MessageRefused, match="still being answered") as caught:
        desk.turn(first, "在吗")
    assert caught.value.retry_after > 0
    with pytest.raises(MessageRefused):
        desk.turn(replace(first), "在吗")  # the same conversation, resumed a second time
    desk.turn(second, "在吗")
    list(under_way)
    desk.turn(first, "在吗")
    assert (first.turns, second.turns) == (2, 1)


def test_an_answer_nobody_reads_to_its_end_frees_the_conversation(engine: Engine) -> None:
    desk = scripted(OrderApi(engine), says("other"))
    conversation = desk.open("C001")
    events = desk.stream(conversation, "你好", StopSignal())
    next(events)
    events.close()
    assert desk.turn(conversation, "你好").reply


def test_a_customer_who_writes_too_fast_is_told_when_to_come_back() -> None:
    clock = iter([0.0, 10.0, 20.0, 24.5, 24.5, 60.0, 60.0, 70.0, 80.0])
    admission = Admission(3, clock=lambda: next(clock))
    first, second, other = (Conversation(customer_id, NOW) for customer_id in ("C", "C", "D"))

    def send(conversation: Conversation) -> None:
        with admission.admitted(conversation, "hi"):
            pass

    for conversation in (first, second, first):  # over all conversations
        send(conversation)
    with pytest.raises(MessageRefused, match=r"3 are the most. Send it again in 36 s") as caught:
        send(second)
    assert caught.value.retry_after == 35.5
    send(other)
    send(second)
    with pytest.raises(MessageRefused, match="again in 11 s"):
        send(second)
    for conversation in (first, second):
        send(conversation)


def test_the_desk_keeps_the_rate(engine: Engine) -> None:
    desk = scripted(OrderApi(engine), says("other"), messages_per_minute=2)
    for _ in range(2):
        desk.turn(desk.open("C001"), "你好")
    with pytest.raises(MessageRefused, match="2 are the most"):
        desk.turn(desk.open("C001"), "你好")
    desk.turn(desk.open("C002"), "你好")


def test_a_conversation_has_an_end(engine: Engine) -> None:
    desk = scripted(OrderApi(engine), says("other"))
    conversation = replace(desk.open("C001"), turns=settings.MAX_TURNS)
    with pytest.raises(MessageRefused, match="Start a new one"):
        desk.turn(conversation, "你好")
