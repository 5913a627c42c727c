"""Beside the chat: orders with fitting suggestions, earlier conversations, the demo's reset."""

from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient
from scripted import says, scripted
from sqlalchemy.orm import Session
from support import NOW

from csproto.chat.order_list import order_list
from csproto.desk.handbook import Language, default_handbook
from csproto.shop.orders import OrderApi
from csproto.shop.store import Customer, Order
from csproto.web.app import create_app

WISHES = default_handbook().wishes
SUGGESTED = [name for name, wish in WISHES.items() if wish.suggestion]


@pytest.fixture
def client(make_assistant) -> TestClient:
    return TestClient(create_app(make_assistant()), headers={"Accept-Language": "en"})


def customers(engine: Any) -> list[str]:
    with Session(engine) as session:
        return [row.id for row in session.query(Customer.id)]


def test_every_order_of_the_demo_has_suggestions_that_fit(engine) -> None:
    desk = scripted(OrderApi(engine), says("other"))
    seen = set()
    for customer in customers(engine):
        facts = desk.orders.facts(customer)
        for row in order_list(desk, customer):
            intents = [wish["intent"] for wish in row["wishes"]]
            assert intents == list(dict.fromkeys(intents))
            assert all(WISHES[intent].suits(facts.order(row["id"])) for intent in intents)
            for wish in row["wishes"]:
                assert all(row["id"] in text and "{" not in text for text in wish["text"].values())
            seen |= set(intents)
    assert seen == set(SUGGESTED)


@pytest.mark.parametrize(
    ("number", "first"),
    [("789012", "urge_shipment"), ("123456", "return_exchange")],
)
def test_the_likeliest_suggestion_comes_first(engine, number: str, first: str) -> None:
    rows = {row["id"]: row for row in order_list(scripted(OrderApi(engine), says("other")), "C001")}
    assert rows[number]["wishes"][0]["intent"] == first


@pytest.mark.parametrize("language", get_args(Language))
@pytest.mark.parametrize("intent", SUGGESTED)
def test_a_suggestion_is_understood_as_its_wish(
    make_assistant, engine, intent: str, language: Language
) -> None:
    """A button whose text the shipped model takes for something else would be a lie."""
    desk = make_assistant()
    facts = desk.orders.facts("C001")
    order = facts.order("123456")
    text = WISHES[intent].suggestion[language].format(order=order.id, item=order.item)
    triage = desk.turn(desk.open("C001"), text).triage
    assert [(wish.intent, wish.orders) for wish in triage.wishes] == [(intent, (order.id,))]


def test_a_visitor_sees_their_own_orders_and_conversations_only(client) -> None:
    orders = client.get("/api/orders").json()
    assert [order["id"] for order in orders] == ["789012", "123456"]
    assert client.get("/api/conversations").json() == []
    client.post("/api/chat", json={"input": "你好"})
    (earlier,) = client.get("/api/conversations").json()
    assert (earlier["title"], earlier["turns"]) == ("你好", 1)
    other = TestClient(client.app)
    other.post("/api/session", json={"customer": "C002"})
    assert other.get("/api/conversations").json() == []
    assert "123456" not in [order["id"] for order in other.get("/api/orders").json()]


def test_a_reset_brings_the_demo_back_and_begins_anew(client, engine) -> None:
    client.post("/api/chat", json={"input": "取消订单789012"})
    client.post("/api/chat", json={"input": "是"})
    with Session(engine) as session:
        assert session.get_one(Order, "789012").status == "cancelled"
    state = client.post("/api/demo/reset", json={})
    assert state.json()["messages"] == []
    with Session(engine) as session:
        assert session.get_one(Order, "789012").status == "paid"


def test_a_shop_with_customers_of_its_own_is_never_reset(client, make_assistant, engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Customer(id="real", name="Real", language="en", joined_at=NOW))
    refused = client.post("/api/demo/reset", json={})
    assert (refused.status_code, refused.json()["error"]) == (409, "NotTheDemo")
    signed_in = TestClient(create_app(make_assistant(), sign_in=lambda request, wished: "C001"))
    assert signed_in.post("/api/demo/reset", json={}).status_code == 404
    assert "real" in customers(engine)
