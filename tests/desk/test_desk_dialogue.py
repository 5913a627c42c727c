"""What a message does with the dialogue: which order, what waits for a yes, what stays open."""

from datetime import timedelta

import pytest
from rehearsed import wish
from sqlalchemy.orm import Session
from support import NOW

from csproto.desk import outage
from csproto.desk.choices import choices
from csproto.desk.state import Reading
from csproto.desk.triage import Triage
from csproto.shop.store import Order


def test_a_return_is_asked_about_and_done_after_the_yes(customer) -> None:
    c001 = customer("C001")
    c001.hears(
        "我要退换货,订单号123456,衣服尺码偏小",
        wish("return_exchange", "123456", cause="size", reason="尺码偏小"),
    )
    assert (c001.rules, c001.writes, c001.waits_for) == (["return.no_reason.7d"], [], "yes")
    assert "123456" in c001.reply("zh")
    assert "纯棉衬衫" in c001.reply("zh")
    assert c001.reply("zh").endswith("？")
    c001.hears("是的", act="confirm")
    assert (c001.rules, c001.writes, c001.waits_for) == (
        ["return.registered"],
        [("return", "123456")],
        None,
    )
    assert c001.hears("是的", act="confirm").writes == []


def test_a_yes_needs_the_word_and_the_model(customer) -> None:
    c001 = customer("C001").hears("取消789012", wish("cancel_order", "789012"))
    assert c001.hears("你说呢", act="confirm").writes == []
    assert c001.waits_for == "yes"
    assert c001.hears("好的,取消吧", act="confirm").writes == [("cancel", "789012")]


def test_a_yes_that_the_model_does_not_read_as_one_writes_nothing(customer) -> None:
    c001 = customer("C001").hears("取消789012", wish("cancel_order", "789012"))
    assert c001.hears("好的", wish("other")).writes == []
    assert c001.waits_for == "yes"


def test_a_yes_with_more_in_it_does_both(customer) -> None:
    c016 = customer("C016").hears("cancel order 160002", wish("cancel_order", "160002"))
    c016.hears("yes, and also cancel 160001", wish("cancel_order", "160001"), act="confirm")
    assert c016.writes == [("cancel", "160002")]
    assert c016.rules == ["cancel.done", "cancel.confirm"]
    assert c016.state.question.wish.orders == ("160001",)


def test_two_orders_in_one_wish_are_asked_about_together(customer) -> None:
    c016 = customer("C016").hears(
        "cancel 160001 and 160002", wish("cancel_order", "160001", "160002")
    )
    assert c016.rules == ["cancel.confirm"] * 2
    assert c016.reply().count("?") == 1
    assert all(part in c016.reply() for part in ("160001", "phone case", "160002", "yoga mat"))
    assert c016.hears("yes", act="confirm").writes == [("cancel", "160001"), ("cancel", "160002")]


def test_two_wishes_about_two_orders(customer) -> None:
    c001 = customer("C001")
    c001.hears(
        "789012催一下，123456退货",
        wish("urge_shipment", "789012"),
        wish("return_exchange", "123456"),
    )
    assert c001.rules == ["urge.paid", "return.no_reason.7d"]
    assert c001.writes == [("urge", "789012")]
    assert c001.state.question.wish.orders == ("123456",)


def test_a_second_deed_waits_for_the_first_answer(customer) -> None:
    c016 = customer("C016")
    c016.hears(
        "cancel 160002 and return the kettle",
        wish("cancel_order", "160002"),
        wish("return_exchange", "160004"),
    )
    assert c016.rules == ["cancel.confirm"]
    c016.hears("no", act="deny")
    assert c016.rules == ["pending.dropped", "return.no_reason.7d"]
    assert c016.state.question.wish.orders == ("160004",)


def test_a_list_can_be_answered(customer) -> None:
    c003 = customer("C003").hears("退货", wish("return_exchange"))
    assert (c003.rules, c003.waits_for) == (["order.which"], "order")
    c003.hears("毯子那个", wish("return_exchange", "300008"))
    assert c003.rules == ["return.expired.quality_route"]


def test_a_bare_number_answers_the_question(customer) -> None:
    c003 = customer("C003").hears("想退", wish("return_exchange", cause="quality", reason="坏了"))
    c003.hears("300008", wish("other", "300008"))
    assert c003.rules == ["return.quality.15d"]


def test_two_misses_bring_the_offer_of_a_human_and_three_a_hand_off(customer) -> None:
    c003 = customer("C003").hears("退货", wish("return_exchange"))
    assert c003.hears("就那个", wish("return_exchange")).rules == ["order.which"]
    c003.hears("就那个啊", wish("return_exchange"))
    assert (c003.rules[-1], c003.waits_for) == ("human.offer", "human")
    c003.hears("说了就那个", wish("return_exchange"))
    assert c003.rules[-1] == "human.after_misses"
    assert c003.writes == [("handoff", "")]
    assert c003.waits_for is None


def test_the_offer_of_a_human_can_be_taken(customer) -> None:
    c001 = customer("C001").hears("把我的个人信息删掉", wish("shop_question"))
    assert (c001.rules, c001.writes, c001.waits_for) == (["question.unknown"], [], "human")
    assert c001.hears("好的", act="confirm").writes == [("handoff", "")]


def test_each_order_keeps_its_own_reason(customer) -> None:
    c014 = customer("C014")
    c014.hears(
        "strawberries are mouldy",
        wish("return_exchange", "140002", cause="quality", reason="mouldy"),
    )
    c014.hears("and 140008", wish("return_exchange", "140008"))
    assert c014.rules == ["return.expired.quality_route"]
    assert "cause" not in c014.state.question.wish.slots


def test_the_order_under_discussion_and_another_article(customer) -> None:
    c016 = customer("C016").hears("where is 160003", wish("order_status", "160003"))
    assert (
        c016.hears("tracking number?", wish("tracking_number")).outcome.decisions[0].order
        == "160003"
    )
    assert (
        c016.hears("and the yoga mat?", wish("order_status", "160002")).outcome.decisions[0].order
        == "160002"
    )


def test_only_the_phone_changes(customer, engine) -> None:
    c001 = customer("C001").hears("改地址", wish("change_address"))
    assert (c001.rules, c001.waits_for) == (["address.ask"], "detail")
    c001.hears("电话改成13800001111，地址不变", wish("change_address", phone="13800001111"))
    assert c001.rules == ["address.confirm"]
    address = c001.orders.facts("C001").order("789012").address
    assert "13800001111" in c001.reply("zh")
    assert address in c001.reply("zh")
    c001.hears("是", act="confirm")
    after = c001.orders.facts("C001").order("789012")
    assert (after.phone, after.address) == ("13800001111", address)


def test_a_digression_leaves_the_question_open(customer) -> None:
    c001 = customer("C001").hears("取消789012", wish("cancel_order", "789012"))
    c001.hears("等下，这个发货了没", wish("order_status"))
    assert c001.rules == ["status.paid"]
    assert c001.waits_for == "yes"
    assert c001.reply("zh").endswith("？")
    c001.hears("你们几点下班", wish("shop_question", topic="opening_hours"))
    assert c001.waits_for == "yes"
    assert c001.hears("是的取消", act="confirm").writes == [("cancel", "789012")]


def test_withdrawing_a_return_is_done_once(customer) -> None:
    c007 = customer("C007").hears("700001不退了", wish("return_exchange", "700001", undo=True))
    assert (c007.rules, c007.waits_for) == (["withdraw.confirm"], "yes")
    assert c007.hears("是", act="confirm").writes == [("withdraw", "700001")]
    assert c007.waits_for is None
    assert c007.hears("700001不退了", wish("return_exchange", "700001", undo=True)).rules == [
        "withdraw.none"
    ]


def test_a_cancellation_cannot_be_undone(customer) -> None:
    c010 = customer("C010").hears(
        "please undo the cancellation of 100001", wish("cancel_order", "100001", undo=True)
    )
    assert (c010.rules, c010.writes) == (["cancel.cannot_undo"], [])


def test_a_foreign_order_is_not_found_and_nothing_is_done(customer) -> None:
    c001 = customer("C001").hears("取消345678", wish("cancel_order", "345678"))
    assert (c001.rules, c001.writes) == (["order.not_found"], [])
    assert "running shoes" not in c001.reply("zh")


def test_a_complaint_is_one_ticket_however_often_it_is_sent(customer) -> None:
    c001 = customer("C001").hears("我要投诉", wish("complaint"))
    assert c001.writes == [("complaint", "")]
    assert c001.hears("我要投诉", wish("complaint")).writes == []


def test_signed_for_and_not_received(customer) -> None:
    c001 = customer("C001").hears("没收到，显示签收", wish("not_received"))
    assert c001.writes == [("trace", "123456")]


def test_an_invoice_carries_title_and_tax_id(customer) -> None:
    c001 = customer("C001")
    c001.hears(
        "789012开发票 抬头某某公司 税号91310000X",
        wish("invoice", "789012", title="某某公司", tax_id="91310000X"),
    )
    assert c001.rules == ["invoice.confirm"]
    assert "某某公司" in c001.reply("zh")
    assert c001.hears("好的", act="confirm").writes == [("invoice", "789012")]


def test_unsure_the_two_readings_are_offered(customer) -> None:
    c001 = customer("C001", threshold=0.6)
    c001.hears("那个衣服", wish("return_exchange", "123456"), sure=0.4, runner_up="order_status")
    assert (c001.rules, c001.writes, c001.waits_for) == (["unsure.clarify"], [], "reading")
    c001.hears("售后申请", wish("return_exchange"), sure=0.9, runner_up="order_status")
    assert c001.outcome.decisions[0].order == "123456"


@pytest.mark.parametrize(
    ("text", "written"), [("好的，谢谢", True), ("yes please", True), ("好的 我再想想款式", False)]
)
def test_an_unsure_yes_counts_only_if_there_is_nothing_else_in_it(
    customer, text: str, written: bool
) -> None:
    c001 = customer("C001", threshold=0.8)
    c001.hears("789012取消", wish("cancel_order", "789012"))
    c001.hears(text, act="confirm", sure=0.5)
    assert bool(c001.writes) is written


def test_another_remedy_is_asked_about_as_such(customer) -> None:
    c002 = customer("C002").hears("return 345678", wish("return_exchange", "345678"))
    c002.hears(
        "no, I don't want a refund, an exchange",
        wish("return_exchange", remedy="exchange"),
        act="correct",
    )
    assert c002.rules == ["return.no_reason.7d"]
    assert "exchange" in c002.reply()


def test_my_orders_are_listed(customer) -> None:
    c016 = customer("C016").hears("what have I ordered?", wish("order_status", list=True))
    assert c016.rules == ["status.list"]
    assert all(number in c016.reply() for number in ("160001", "160005"))


def test_a_yes_is_for_the_question_that_was_put(customer, engine) -> None:
    """The order has arrived meanwhile: the customer agreed to cancel it, not to a return."""
    c001 = customer("C001").hears("退掉789012", wish("return_exchange", "789012"))
    assert c001.rules == ["return.not_shipped"]
    with Session(engine) as session, session.begin():
        order = session.get_one(Order, "789012")
        order.shipped_at = order.delivered_at = NOW - timedelta(hours=1)
    c001.hears("好的", act="confirm")
    assert (c001.rules, c001.writes) == (["return.no_reason.7d"], [])
    assert c001.hears("好的", act="confirm").writes == [("return", "789012")]


def test_a_yes_for_one_of_two_keeps_what_was_said_of_both(customer, engine) -> None:
    c016 = customer("C016")
    c016.hears("invoices to ACME Ltd", wish("invoice", "160002", "160004", title="ACME Ltd"))
    c016.hears("yes, 160004", wish("invoice", "160004"), act="confirm")
    assert c016.writes == [("invoice", "160004")]
    with Session(engine) as session:
        assert session.get_one(Order, "160004").invoice_title == "ACME Ltd"
        assert session.get_one(Order, "160002").invoice == "none"


def test_a_yes_to_one_and_another_one_besides(customer) -> None:
    c016 = customer("C016").hears("cancel 160002", wish("cancel_order", "160002"))
    c016.hears("yes, and 160001 too", wish("cancel_order", "160002", "160001"), act="confirm")
    assert c016.writes == [("cancel", "160002")]
    assert c016.state.question.wish.orders == ("160001",)


def test_two_unknown_numbers_are_one_miss(customer) -> None:
    c001 = customer("C001")
    for _ in range(3):
        c001.hears("999998和999999到哪了", wish("order_status", "999998", "999999"))
    assert c001.rules.count("human.offer") <= 1
    c001.hears("999998和999999到哪了", wish("order_status", "999998", "999999"))
    assert c001.writes == [("handoff", "")]


def test_the_other_one_of_one(customer) -> None:
    c009 = customer("C009").hears("where is it", wish("order_status"))
    c009.hears("no, the other one", act="correct")
    assert c009.outcome.decisions[0].order == "900001"


def test_thanks_beside_a_wish_is_no_second_answer(customer) -> None:
    c016 = customer("C016").hears(
        "cancel 160002, thanks", wish("cancel_order", "160002"), wish("other")
    )
    assert c016.rules == ["cancel.confirm"]


def test_a_shop_question_is_answered_at_once(customer) -> None:
    c016 = customer("C016")
    c016.hears(
        "cancel 160002. who pays?",
        wish("cancel_order", "160002"),
        wish("shop_question", topic="return_cost"),
    )
    assert c016.rules == ["cancel.confirm", "question.answered"]


def test_no_to_the_offer_of_a_human_drops_nothing_else(customer) -> None:
    c001 = customer("C001").hears("有绿色的吗", wish("shop_question"))
    c001.hears("不用", act="deny")
    assert c001.rules == ["pending.dropped"]
    assert "orders" not in c001.outcome.decisions[0].facts


# What a cold reader found.


def test_a_yes_to_a_human_that_says_it_again_is_one_handover(customer) -> None:
    c001 = customer("C001")
    c001.hears("取消789012", wish("cancel_order", "789012"))
    c001.hears("嗯...", wish("other")).hears("呃", wish("other"))
    assert c001.waits_for == "human"
    c001.hears("yes, get me a human", wish("human_agent"), act="confirm")
    assert c001.rules == ["human.handoff"]


def test_a_no_to_the_offer_of_a_human_with_a_wish_runs_the_wish(customer) -> None:
    c001 = customer("C001")
    c001.hears("取消789012", wish("cancel_order", "789012"))
    c001.hears("嗯...", wish("other")).hears("呃", wish("other"))
    c001.hears("no, just cancel 789012", wish("cancel_order", "789012"), act="deny")
    assert (c001.rules, c001.waits_for) == (["cancel.confirm"], "yes")


def test_a_bare_number_after_a_question_about_the_shop_is_a_number(customer) -> None:
    c001 = customer("C001")
    c001.hears("do you sell sofas", wish("shop_question"))
    c001.hears("789012", wish("other", "789012"))
    assert c001.rules == ["other.order_card"]


def test_a_further_order_keeps_its_own_details(customer) -> None:
    c003 = customer("C003")
    c003.hears("300007 return", wish("return_exchange", "300007"))
    more = wish("return_exchange", "300008", cause="quality")
    c003.hears("yes, and return 300008 too, it is broken", more, act="confirm")
    assert c003.rules == ["return.registered", "return.quality.15d"]


def test_an_order_that_the_yes_does_not_name_is_asked_about_again(customer) -> None:
    c016 = customer("C016")
    c016.hears("cancel the case and the mat", wish("cancel_order", "160001", "160002"))
    c016.hears("yes, 160002", wish("cancel_order", "160002"), act="confirm")
    assert c016.writes == [("cancel", "160002")]
    assert c016.state.question.wish.orders == ("160001",)


def test_no_the_other_one_after_a_handover_asks_for_no_order(customer) -> None:
    c001 = customer("C001")
    c001.hears("转人工", wish("human_agent"))
    c001.hears("no, the other one", act="correct")
    assert c001.rules == ["other.small_talk"]


def test_a_yes_with_the_number_of_another_order_is_no_clear_yes(customer) -> None:
    c016 = customer("C016")
    c016.hears("cancel 160001", wish("cancel_order", "160001"))
    c016.hears("yes, 160002", act="confirm")  # as a model may misread it
    assert (c016.writes, c016.waits_for) == ([], "yes")
    c016.hears("yes, 160001", act="confirm")
    assert c016.writes == [("cancel", "160001")]


def test_a_yes_that_names_another_order_is_no_yes(customer) -> None:
    c016 = customer("C016").hears("cancel order 160001", wish("cancel_order", "160001"))
    c016.hears("yes, cancel 160002", wish("cancel_order", "160002"), act="confirm")
    assert (c016.writes, c016.waits_for) == ([], "yes")
    c016 = customer("C016").hears("cancel order 160001", wish("cancel_order", "160001"))
    assert c016.hears("yes, 160002", wish("other", "160002"), act="confirm").writes == []
    c016 = customer("C016").hears("cancel order 160001", wish("cancel_order", "160001"))
    assert c016.hears("yes, 160002", act="confirm").writes == []


def test_a_yes_for_some_of_the_orders_is_a_yes_for_these(customer) -> None:
    c016 = customer("C016").hears(
        "cancel 160001 and 160002", wish("cancel_order", "160001", "160002")
    )
    assert c016.hears("yes, 160001", act="confirm").writes == [("cancel", "160001")]
    assert c016.state.question.wish.orders == ("160002",)


@pytest.mark.parametrize(
    "text",
    [
        "yes, all except the phone case",
        "yes, everything but 160001",
        "yes, leave out the phone case please",
        "yes, but only the phone case",
    ],
)
@pytest.mark.parametrize("read", [(), (wish("cancel_order", "160001"),)])
def test_a_yes_that_may_mean_the_others_is_asked_about_the_named_alone(
    customer, text, read
) -> None:
    c016 = customer("C016").hears("cancel both", wish("cancel_order", "160001", "160002"))
    c016.hears(text, *read, act="confirm")
    assert c016.writes == []
    assert c016.state.question.wish.orders == ("160001",)
    assert c016.hears("no", act="deny").writes == []
    assert c016.state.question.wish.orders == ("160002",)
    assert c016.hears("yes", act="confirm").writes == [("cancel", "160002")]


@pytest.mark.parametrize(
    "text",
    [
        "yes, the yoga mat",  # another article
        "yes and cancel 160002 instead",
        "yes, I would rather you didn't",
        "ok, you people please do not cancel the phone case",
        "是的，你们先别取消",
        "好的，手机壳不取消了",
        "我都说了是的，160002",
        "是的，成都那边160002",
    ],
)
def test_a_yes_to_something_else_is_asked_again(customer, text) -> None:
    c016 = customer("C016").hears("cancel 160001", wish("cancel_order", "160001"))
    assert c016.hears(text, act="confirm").writes == []
    assert c016.waits_for == "yes"


def test_a_question_after_the_yes_is_no_yes(customer) -> None:
    for text in ("ok, what does that cost me?", "ok let me check with my wife", "好的 先看看"):
        c016 = customer("C016").hears("cancel order 160001", wish("cancel_order", "160001"))
        assert (c016.hears(text, act="confirm").writes, c016.waits_for) == ([], "yes")


def test_a_yes_to_an_order_that_has_changed_is_asked_again(customer) -> None:
    c016 = customer("C016").hears("cancel order 160001", wish("cancel_order", "160001"))
    with Session(c016.orders.engine) as session:
        session.get(Order, "160001").amount += 10_000
        session.commit()
    assert (c016.hears("yes", act="confirm").writes, c016.waits_for) == ([], "yes")
    assert c016.hears("yes", act="confirm").writes == [("cancel", "160001")]


def test_a_yes_to_yesterdays_question_is_asked_again(customer) -> None:
    c016 = customer("C016").hears("cancel order 160001", wish("cancel_order", "160001"))
    c016.now += timedelta(hours=c016.handbook.values.windows["yes_hours"], minutes=1)
    assert (c016.hears("yes", act="confirm").writes, c016.waits_for) == ([], "yes")
    assert c016.hears("yes", act="confirm").writes == [("cancel", "160001")]


def test_an_unknown_number_does_not_swallow_the_question(customer) -> None:
    c016 = customer("C016").hears(
        "cancel 160001 and where is 999999",
        wish("cancel_order", "160001"),
        wish("tracking_number", "999999"),
    )
    assert (c016.waits_for, c016.state.question.wish.orders) == ("yes", ("160001",))
    assert "order.not_found" in c016.rules
    assert c016.hears("yes", act="confirm").writes == [("cancel", "160001")]


def test_a_wish_that_waits_is_not_what_the_talk_is_about(customer) -> None:
    c016 = customer("C016").hears(
        "cancel one and return the kettle",
        wish("cancel_order"),
        wish("return_exchange", "160004"),
    )
    assert c016.waits_for == "order"
    assert "160004" not in c016.state.focus


def test_an_open_question_comes_back_after_another_deed(customer) -> None:
    c016 = customer("C016").hears("cancel order 160001", wish("cancel_order", "160001"))
    c016.hears("an invoice for 160002 please", wish("invoice", "160002"))
    assert c016.rules == ["invoice.confirm"]
    c016.hears("yes", act="confirm")
    assert c016.writes == [("invoice", "160002")]
    assert c016.state.question.wish.orders == ("160001",)


def test_a_human_ends_everything_that_was_open(customer) -> None:
    c016 = customer("C016").hears(
        "cancel 160001 and return the kettle",
        wish("cancel_order", "160001"),
        wish("return_exchange", "160004"),
    )
    c016.hears("get me a human", wish("human_agent"))
    assert c016.rules == ["human.handoff"]
    assert (c016.state.question, c016.state.queue, c016.state.behind) == (None, (), None)


def test_wishes_that_open_tickets_have_to_be_sure_whatever_comes_with_them(customer) -> None:
    for act in ("ask", "deny", "correct"):
        c016 = customer("C016", threshold=0.7).hears(
            "cancel 160001", wish("cancel_order", "160001")
        )
        c016.hears("hm", wish("complaint"), act=act, sure=0.1)
        assert c016.writes == []
    c016 = customer("C016", threshold=0.7)
    c016.hears("?", wish("order_status", "160001"), wish("urge_shipment", "160001"), sure=0.65)
    assert c016.writes == []


def test_taking_back_can_be_taken_back(customer) -> None:
    c001 = customer("C001").hears("return 123456", wish("return_exchange", "123456"))
    c001.hears("yes", act="confirm")
    assert c001.writes == [("return", "123456")]
    c001.hears("take that back", wish("return_exchange", "123456", undo=True))
    assert c001.rules == ["withdraw.confirm"]
    c001.hears("no wait, I do want to return it", wish("return_exchange", "123456"))
    assert c001.rules == ["return.already_open"]


def test_a_question_goes_on_for_the_order_that_it_still_fits(customer, engine) -> None:
    c016 = customer("C016").hears("cancel both", wish("cancel_order", "160001", "160002"))
    with Session(engine) as session, session.begin():
        session.get_one(Order, "160002").shipped_at = NOW
    c016.hears("hm", wish("other"))
    assert c016.state.question.wish.orders == ("160001",)
    assert "Shall I cancel 160001 (phone case)?" in c016.reply()
    assert c016.hears("yes", act="confirm").writes == [("cancel", "160001")]


def test_what_waits_is_still_there_after_an_outage(customer, handbook) -> None:
    c016 = customer("C016")
    c016.hears(
        "cancel 160002 and return the kettle",
        wish("cancel_order", "160002"),
        wish("return_exchange", "160004"),
    )
    before = c016.state
    for text, read in (
        ("how are you", wish("other")),
        ("do you sell bread", wish("shop_question")),
    ):
        reading = Reading(text, Triage("ask", (read,)))
        outcome = outage.respond(reading, "C016", before, c016.now, handbook)
        assert "order.not_found" not in [decision.rule for decision in outcome.decisions]
        assert outcome.state.queue == before.queue
        assert before.question in (outcome.state.question, outcome.state.behind)
    c016.state = outcome.state
    asked = []
    while c016.state.question:
        asked.append(c016.state.question.wish.orders)
        c016.hears("no", act="deny")
    assert asked[1:] == [("160004",), ("160002",)], "both come back"


def test_a_choice_with_a_human_among_the_readings_offers_the_human_once(customer, handbook) -> None:
    unsure = customer("C016", threshold=0.9)
    unsure.hears("hm hm", wish("complaint"), sure=0.5)
    assert unsure.state.question.readings == ("complaint", "human_agent")
    buttons = choices(unsure.state.question, handbook, "en")
    assert len({button["text"] for button in buttons}) == len(buttons) == 2
