"""Corrected addresses: the part that is named changes, the rest stays, and what nobody can place is asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csproto.address import LONGEST, corrected

ZH = "江苏省南京市鼓楼区汉口路12号3栋501室"


@pytest.mark.parametrize(
    ("old", "new", "whole"),
    [
        # house, stairs, flat
        (ZH, "22号", "江苏省南京市鼓楼区汉口路22号3栋501室"),
        (ZH, "22", "江苏省南京市鼓楼区汉口路22号3栋501室"),
        (ZH, "5栋", "江苏省南京市鼓楼区汉口路12号5栋501室"),
        (ZH, "502室", "江苏省南京市鼓楼区汉口路12号3栋502室"),
        (ZH, "22号5栋", "江苏省南京市鼓楼区汉口路22号5栋501室"),
        (ZH, "2单元", "江苏省南京市鼓楼区汉口路12号3栋501室2单元"),
        ("上海市浦东新区世纪大道", "8号", "上海市浦东新区世纪大道8号"),
        ("世纪大道8号2号楼", "3号楼", "世纪大道8号3号楼"),
        ("世纪大道8号2号楼", "9号", "世纪大道9号2号楼"),
        ("世纪大道8号", "8-1号", "世纪大道8-1号"),
        # the road
        (ZH, "汉口路22号", "江苏省南京市鼓楼区汉口路22号3栋501室"),
        (ZH, "中山路7号", "江苏省南京市鼓楼区中山路7号"),
        ("浦东新区世纪大道8号", "张江路", "浦东新区张江路"),
        # a whole address
        (ZH, "上海市浦东新区世纪大道8号", "上海市浦东新区世纪大道8号"),
        (ZH, "12 Pine Row, Derby", "12 Pine Row, Derby"),
        ("", "22号", "22号"),
        # English
        ("112 Cedar Ave, Springfield", "212 Cedar Ave", "212 Cedar Ave, Springfield"),
        ("112 Cedar Ave, Springfield", "212 cedar ave", "212 cedar ave, Springfield"),
        ("112 Cedar Ave Springfield", "212 Cedar Ave", "212 Cedar Ave Springfield"),
        ("112 Cedar Ave, Springfield", "212", "212 Cedar Ave, Springfield"),
        ("112 Cedar Avenue", "9 Cedar Ave", "9 Cedar Ave"),
        ("112 Cedar Ave, Apt 4, Springfield, IL 62704", "9 Oak Lane", "9 Oak Lane, Apt 4, Springfield, IL 62704"),
        ("112 Cedar Ave, Apt 4, Springfield, IL 62704", "apt 5", "112 Cedar Ave, apt 5, Springfield, IL 62704"),
        ("112 Cedar Ave, Apt 4, Springfield, IL 62704", "62705", "112 Cedar Ave, Apt 4, Springfield, IL 62705"),
        ("112 Cedar Ave, Springfield", "Flat 3", "112 Cedar Ave, Springfield, Flat 3"),
        ("112 Cedar Ave, Springfield", "9 Oak Lane, Derby", "9 Oak Lane, Derby"),
        ("Rose Cottage, Derby", "9 Oak Lane", "9 Oak Lane"),
        # a telephone number
        ("世纪大道8号 13800138000", "13900139000", "世纪大道8号 13900139000"),
        ("世纪大道8号5栋", "13900139000", "世纪大道8号5栋 13900139000"),
        # nobody can tell
        ("世纪大道88号55室", "22", ""),
        ("世纪大道88号5室", "222", ""),
    ],
)
def test_what_a_correction_comes_to(old: str, new: str, whole: str) -> None:
    assert corrected(old, new) == whole


ANY = st.text("0123456789号栋室路街市区 ,aptAvePine南京汉口", max_size=220)


@given(ANY, ANY)
def test_any_two_texts_have_an_outcome_that_fits_the_books(old: str, new: str) -> None:
    whole = corrected(old, new)
    assert len(whole) <= LONGEST
    assert set(whole) <= set(old + new + ", ")
