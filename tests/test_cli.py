"""The command line as a user meets it: exit codes, one clear line, JSON that a program can read."""

import json
import re

import pytest


def test_ask_prints_the_contract(run_cli, server) -> None:
    done = run_cli("ask", "我要退换货,订单号123456,衣服尺码偏小", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert {"intent", "order_id", "reason", "address", "act", "more"} == answer["triage"].keys()
    assert {"action", "rule"} <= answer["decision"].keys()
    assert {"prompt_tokens", "cached_tokens", "completion_tokens", "model_calls", "ttft_ms", "total_ms"} <= answer[
        "usage"
    ].keys()
    assert answer["reply"]


def test_ask_says_what_it_would_do_and_chat_takes_the_yes(run_cli, server) -> None:
    done = run_cli("ask", "取消订单789012")
    assert done.returncode == 0
    assert "confirm_cancel" in done.stdout


@pytest.mark.parametrize(
    ("words", "environment", "code", "line"),
    [
        (["ask", ""], {}, 1, "The message is empty"),
        (["ask", "长" * 20_000], {}, 1, "20000 characters"),
        (["ask", "hi", "--customer", "C999"], {}, 1, "no customer C999"),
        (["ask", "hi", "--base-url", "http://127.0.0.1:9"], {}, 1, "No SGLang server is ready at http://127.0.0.1:9"),
        (["ask", "hi"], {"CSPROTO_API_KEY": "wrong"}, 1, "does not accept the API key"),
        (["ask", "hi"], {"CSPROTO_DB": "sqlite:////proc/none/shop.db"}, 1, "cannot be used"),
        (["eval", "--data", "/none.jsonl"], {}, 1, "cannot be read"),
        (
            ["serve", "--model", "/nowhere"],
            {"CSPROTO_STATE": "/tmp/csproto-test-none.json", "CSPROTO_BASE_URL": ""},
            1,
            "holds no usable model",
        ),
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


def test_scenarios_are_counted_by_family(run_cli, server) -> None:
    done = run_cli("scenarios", "--family", "other_people")
    assert done.returncode == 0, done.stdout
    assert re.fullmatch(r"other_people +(\d+) of \1", done.stdout.strip())


def test_doctor_says_what_is_there(run_cli) -> None:
    done = run_cli("doctor")
    assert done.returncode == 0, done.stdout
    for word in ("Python", "sglang", "torch", "mini model"):
        assert word in done.stdout


def test_demo_answers_both_customers(run_cli, server) -> None:
    done = run_cli("demo")
    assert done.returncode == 0, done.stderr
    assert "approve_return by return.no_reason.7d" in done.stdout
    assert "urge_ticket by urge.paid" in done.stdout
    assert "What next" in done.stdout


def test_forget_erases_a_customer(run_cli) -> None:
    assert run_cli("db", "init").returncode == 0
    assert run_cli("db", "forget", "C005").returncode == 0
    gone = run_cli("db", "forget", "C005")
    assert gone.returncode == 1
    assert "no customer C005" in gone.stderr
