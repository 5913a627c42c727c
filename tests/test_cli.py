"""The command line as a user meets it: exit codes, one clear line, JSON for programs."""

import json
import re

import pytest
from rich.cells import cell_len

KEYS = "triage sure runner_up decisions waiting choices reply usage".split()
DECISION = "intent order action rule source facts write".split()
USAGE = (
    "prompt_tokens cached_tokens completion_tokens model_calls reusable_tokens reused_tokens "
    "ttft_ms total_ms"
).split()


def test_ask_prints_the_contract(run_cli, server) -> None:
    done = run_cli("ask", "我要退换货,订单号123456,衣服尺码偏小", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert list(answer) == KEYS
    assert answer["triage"].keys() == {"act", "wishes"}
    (decision,) = answer["decisions"]
    assert decision.keys() == set(DECISION)
    assert (decision["action"], decision["rule"]) == ("confirm_return", "return.no_reason.7d")
    assert (decision["order"], decision["write"]) == ("123456", None)
    assert answer["waiting"]["orders"] == ["123456"]
    assert [button["kind"] for button in answer["choices"]] == ["yes_no", "yes_no"]
    assert set(USAGE) <= answer["usage"].keys()
    assert "123456" in answer["reply"]


@pytest.mark.parametrize(
    ("words", "environment", "code", "line"),
    [
        (["ask", ""], {}, 1, "The message is empty"),
        (["ask", "长" * 20_000], {}, 1, "20000 characters"),
        (["ask", "hi", "--customer", "C999"], {}, 1, "no customer C999"),
        (
            ["ask", "hi", "--base-url", "http://127.0.0.1:9"],
            {},
            1,
            "No SGLang server is ready at http://127.0.0.1:9",
        ),
        (["ask", "hi"], {"CSPROTO_API_KEY": "wrong"}, 1, "does not accept the API key"),
        (["ask", "hi"], {"CSPROTO_DB": "sqlite:////proc/none/shop.db"}, 1, "cannot be used"),
        (["eval", "--data", "/none.jsonl"], {}, 1, "cannot be read"),
        (["scenarios", "--family", "none"], {}, 1, "no family none"),
        (
            ["serve", "--model", "/nowhere"],
            {"CSPROTO_STATE": "/tmp/csproto-test-none.json", "CSPROTO_BASE_URL": ""},
            1,
            "holds no usable model",
        ),
        (
            ["serve", "--", "--api-key", "x"],
            {"CSPROTO_STATE": "/tmp/csproto-test-none.json", "CSPROTO_BASE_URL": ""},
            1,
            "environment variable CSPROTO_API_KEY",
        ),
        (["demo", "--model", "/elsewhere"], {}, 1, "The model /elsewhere is asked for"),
        (["eval", "--model", "/elsewhere"], {}, 1, "The model /elsewhere is asked for"),
        (["eval", "--out", "/none/x.jsonl"], {}, 1, "there is no folder /none"),
        (["eval", "--write-profile"], {}, 2, "--write-profile needs --calibrate"),
        (["ask"], {}, 2, "Missing argument"),
        (["nonsense"], {}, 2, "No such command"),
    ],
)
def test_what_goes_wrong_is_one_clear_line(run_cli, server, words, environment, code, line) -> None:
    done = run_cli(*words, **environment)
    assert done.returncode == code
    assert line in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_eval_counts_and_writes_predictions(run_cli, server, tmp_path) -> None:
    data, predictions = tmp_path / "cases.jsonl", tmp_path / "predictions.jsonl"
    turns = [
        {
            "text": "我要退换货,订单号123456,衣服尺码偏小",
            "expect": {"intent": "return_exchange", "orders": ["123456"], "writes": []},
        },
        {"text": "是的", "expect": {"action": "return_registered", "writes": ["return"]}},
    ]
    case = {"id": "one-1", "lang": "zh", "turns": turns}
    data.write_text(json.dumps(case, ensure_ascii=False) + "\n", encoding="utf-8-sig")
    done = run_cli(
        *("eval", "--data", str(data), "--out", str(predictions), "--json", "--baselines"),
        *("--calibrate", "0.1"),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["turns"], figures["errors"]) == (2, 0)
    assert figures["unwanted_writes"]["count"] == 0
    assert figures["writes"]["share"] == 1.0
    assert figures["baselines"].keys() == {"keywords", "linear"}
    assert 0 <= figures["limits"]["answering"] <= figures["limits"]["writing"] <= 0.99
    first, second = map(json.loads, predictions.read_text(encoding="utf-8").splitlines())
    assert (first["turn"], first["writes"]) == (1, [])
    assert second["writes"] == [{"kind": "return", "order": "123456"}]
    assert second["orders_after"]["123456"]["refund"] == "requested"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "holds no case"),
        ('{"id": "1", "lang": "fr", "turns": []}', "line 1: lang"),
        (
            '{"id": "1", "lang": "en", "turns": [{"text": "a", "expect": {"intent": "buy"}}]}',
            "'buy' is no intent",
        ),
        (
            '{"id": "1", "lang": "en", "turns": [{"text": "a", "expect": {"actoin": "x"}}]}',
            "actoin",
        ),
    ],
)
def test_cases_that_cannot_be_used_are_named(run_cli, server, tmp_path, line, complaint) -> None:
    data = tmp_path / "cases.jsonl"
    data.write_text(line + "\n", encoding="utf-8")
    done = run_cli("eval", "--data", str(data))
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_eval_prints_tables_that_fit_80_columns(run_cli, server, tmp_path) -> None:
    data = tmp_path / "cases.jsonl"
    expect = {"intent": "urge_shipment", "orders": ["789012"], "writes": ["urge"]}
    turns = [{"text": "我的订单#789012还没发货,能催一下吗?", "expect": expect}]
    data.write_text(json.dumps({"id": "1", "lang": "zh", "turns": turns}), encoding="utf-8")
    options = ("--calibrate", "0", "--baselines")  # fitting a baseline takes a while
    done = run_cli("eval", "--data", str(data), *options, timeout=400)
    assert done.returncode == 0, done.stderr
    assert max(map(cell_len, done.stdout.splitlines())) <= 80
    told = " ".join(done.stdout.split())
    for words in ("intent, linear baseline", "unwanted writes 0", '"limits": {"answering": '):
        assert words in told


def test_references_are_counted_by_kind(run_cli, server) -> None:
    done = run_cli("references", "--count", "2", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["language"] for row in rows} == {"zh", "en"}
    assert {(row["size"], row["low"] <= row["share"] <= row["high"]) for row in rows} == {(2, True)}


def test_scenarios_are_counted_by_family(run_cli, server) -> None:
    done = run_cli("scenarios", "--family", "other_people", "--at-least", "0.5")
    assert done.returncode == 0, done.stdout
    assert re.search(r"other_people +\d+ of \d+$", done.stdout.strip())


def test_doctor_says_what_is_there(run_cli) -> None:
    done = run_cli("doctor")
    assert done.returncode == 0, done.stdout
    for word in ("Python", "sglang", "torch", "mini model"):
        assert word in done.stdout


def test_demo_answers_the_customers_in_80_columns(run_cli, server) -> None:
    done = run_cli("demo")
    assert done.returncode == 0, done.stderr
    assert max(map(cell_len, done.stdout.splitlines())) <= 80
    told = " ".join(done.stdout.split())
    for words in (
        "return_exchange 123456, remedy exchange, cause size, reason 尺码偏小",
        "confirm_return by return.no_reason.7d",
        "return_registered by return.registered",
        "writes return",
        "urge_ticket by urge.paid",
        "What next",
    ):
        assert words in told


def test_forget_erases_a_customer(run_cli) -> None:
    assert run_cli("db", "init", "--yes").returncode == 0
    assert run_cli("db", "forget", "C005").returncode == 0
    gone = run_cli("db", "forget", "C005")
    assert gone.returncode == 1
    assert "no customer C005" in gone.stderr
