"""The shop's files: another shop has its own, and what is missing in one is named."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from rehearsed import Rehearsed

from csproto.desk.handbook import Handbook, HandbookError
from csproto.desk.policy import check
from csproto.desk.triage import Wish
from csproto.settings import DATA
from csproto.shop.orders import OrderApi

FILES = ("shop.yaml", "lexicon.yaml", "answers.yaml", "openings.yaml", "dialogue.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo shop's files."""
    for name in FILES:
        shutil.copy(DATA / name, tmp_path)
    shutil.copytree(DATA / "wishes", tmp_path / "wishes")
    return tmp_path


def change(path: Path, *where: str, value: object) -> None:
    """Set one value of a YAML file, or delete it if the value is None."""
    whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    part = whole
    for name in where[:-1]:
        part = part[name]
    if value is None:
        del part[where[-1]]
    else:
        part[where[-1]] = value
    path.write_text(yaml.safe_dump(whole, allow_unicode=True), encoding="utf-8")


def test_another_shop_has_its_own_windows_and_sources(folder: Path, engine) -> None:
    change(folder / "shop.yaml", "windows", "no_reason_return", value=30)
    rule = ("rules", "return.no_reason.7d", "source")
    change(folder / "wishes" / "return_exchange.yaml", *rule, value="our promise 1: thirty days")
    shop = Handbook(folder)
    customer = Rehearsed(OrderApi(engine), "C001", shop)
    customer.now += timedelta(days=20)
    customer.hears("退货", Wish("return_exchange", ("123456",)))
    assert customer.rules == ["return.no_reason.7d"]
    assert shop.rules["return.no_reason.7d"].source == "our promise 1: thirty days"
    assert "30" in customer.reply("zh")


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("wishes/urge_shipment.yaml", ("label", "en")),
        ("wishes/urge_shipment.yaml", ("rules", "urge.paid", "say", "en")),
        ("wishes/cancel_order.yaml", ("rules", "cancel.confirm", "ask", "zh")),
        ("openings.yaml", ("sorry", "zh")),
        ("answers.yaml", ("return_cost", "answer", "en")),
        ("shop.yaml", ("labels", "status", "paid", "zh")),
        ("lexicon.yaml", ("yes", "en")),
    ],
)
def test_words_that_are_missing_in_a_language_are_named(
    folder: Path, name: str, where: tuple[str, ...]
) -> None:
    change(folder / name, *where, value=None)
    with pytest.raises(HandbookError) as error:
        Handbook(folder)
    assert Path(name).name in str(error.value)
    assert f"nothing in {where[-1]}" in str(error.value)


def test_a_question_about_one_order_alone_is_refused(folder: Path) -> None:
    """The desk asks one question about several orders."""
    where = ("rules", "cancel.confirm", "ask", "en")
    change(folder / "wishes" / "cancel_order.yaml", *where, value=["Shall we cancel {order}?"])
    with pytest.raises(HandbookError, match=r"cancel_order.yaml.*write {orders}"):
        Handbook(folder)


@pytest.mark.parametrize(
    ("name", "where", "value", "told"),
    [
        ("dialogue.yaml", ("rules", "human.after_misses"), None, "human.after_misses is missing"),
        ("shop.yaml", ("windows", "yes_hours"), None, "windows.yes_hours is missing"),
        ("shop.yaml", ("risk", "velocity"), None, "risk.velocity is missing"),
        ("shop.yaml", ("labels", "status", "paid"), None, "labels.status.paid is missing"),
        (
            "wishes/cancel_order.yaml",
            ("rules", "cancel.confirm", "ask", "en"),
            ["Cancel {orders} for {amount}?"],
            "{amount} is none of its facts",
        ),
        (
            "wishes/cancel_order.yaml",
            ("rules", "cancel.done", "say", "en"),
            ["Order {order} is cancelled, {amount} goes back."],
            "names no more than",
        ),
    ],
)
def test_what_another_shop_lacks_is_told_before_a_customer_meets_it(
    folder: Path, name: str, where: tuple[str, ...], value: object, told: str
) -> None:
    change(folder / name, *where, value=value)
    with pytest.raises(HandbookError, match=told):
        check(Handbook(folder))


def test_another_shop_may_leave_out_a_wish(folder: Path) -> None:
    (folder / "wishes" / "invoice.yaml").unlink()
    check(Handbook(folder))
