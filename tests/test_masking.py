"""Personal data is masked, whatever its form; order ids and what was meant stay legible."""

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from csproto.masking import masked
from csproto.triage import Triage


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("电话13800138000谢谢", "电话[phone]谢谢"),
        ("138 0013 8000", "[phone]"),
        ("138-0013-8000", "[phone]"),
        ("+86 13800138000", "[phone]"),
        ("010-62345678", "[phone]"),
        ("call (212) 555-0182 today", "call [phone] today"),
        ("call 212-555-0182", "call [phone]"),
        ("写信到li.lei+1@mail.example.com吧", "写信到[e-mail]吧"),
        ("身份证11010519491231002X", "身份证[number]"),
        ("card 4111 1111 1111 1111", "card [number]"),
        ("南京市鼓楼区汉口路22号3栋501室", "[address]"),
        ("改成上海市浦东新区世纪大道8号,谢谢", "[address],谢谢"),
        ("文三路阳光小区7栋", "[address]"),
        ("send to 12 Pine Row, Derby", "send to [address]"),
        ("212 Cedar Ave", "[address]"),
        ("112 cedar avenue, apt 4, springfield. thanks", "[address]. thanks"),
        # what stays
        ("订单123456到哪了", "订单123456到哪了"),
        ("已经3天了还在路上", "已经3天了还在路上"),
        ("退 199.00 元", "退 199.00 元"),
        ("my 2 shirts are on the road", "my 2 shirts are on the road"),
    ],
)
def test_what_is_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize("text", ["20261105000178", "2026 1105 0001 78", "订单20261105000178发了吗"])
def test_order_ids_stay_when_they_are_known(text: str) -> None:
    assert masked(text, ["20261105000178", "123456"]) == text
    assert "[number]" in masked(text, ["123456"])


def test_a_number_around_an_order_id_is_another_number() -> None:
    assert masked("9123456789123456", ["123456789"]) == "[number]"


@given(st.text(), st.integers(10**8, 10**18), st.text("路号 a.,", max_size=5))
def test_no_long_number_gets_through(before: str, number: int, after: str) -> None:
    assert str(number) not in masked(f"{before}{number}{after}", ["123456"])


def test_a_triage_that_does_not_fit_quotes_nothing_the_customer_wrote() -> None:
    with pytest.raises(ValidationError) as caught:
        Triage.model_validate_json('{"intent":"change_address","address":"' + "汉口路22号" * 40 + '"}')
    assert "汉口路" not in "".join(traceback.format_exception_only(caught.value))
