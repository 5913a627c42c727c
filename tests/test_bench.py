"""The bench.

The same work for every arm, arithmetic with known answers, and real servers compared.
"""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from support import NOW, ROOT

from csproto import settings
from csproto.desk.case import Decision
from csproto.desk.handbook import default_handbook
from csproto.desk.triage import Triage, Wish
from csproto.desk.turn import Turn
from csproto.engine.endpoint import CallOptions, Usage
from csproto.errors import CsprotoError
from csproto.measure.bench import engines, figures, pictures
from csproto.measure.bench.alone import prompts
from csproto.measure.bench.arms import ARMS, DEFAULT
from csproto.measure.bench.clients import Call, TimedEndpoint, VllmEndpoint
from csproto.measure.bench.compare import Plan, compare, full_plan, quick_plan
from csproto.measure.bench.load import Load, Pass, Played
from csproto.measure.bench.machine import memory_mb
from csproto.measure.bench.readers import BLOG_REGEX, ByHand, clean_json, strict
from csproto.measure.bench.record import COMPARED, lines
from csproto.measure.bench.work import LENGTHS, conversations
from csproto.measure.cases import CaseTurn, Expected
from csproto.opening import desk_on
from csproto.shop.orders import OrderApi

# The work.


def test_the_work_depends_on_the_seed_alone() -> None:
    assert conversations("7", 24) == conversations("7", 24)
    assert conversations("7", 24) != conversations("8", 24)
    assert conversations("7", 24)[:10] == conversations("7", 10)


def test_no_conversation_comes_again_before_all_were_played() -> None:
    cases = conversations("7", 200)
    assert {len(case.turns) for case in cases} == set(LENGTHS)
    names = [case.id for case in cases]
    once = len(set(names))
    assert once >= 80
    assert len(set(names[:once])) == once
    assert sum(bool(case.turns[2].expect.action) for case in cases[:once]) > once / 2


def test_prompts_of_the_engines_share_no_prefix() -> None:
    texts = prompts("1", 64)
    assert texts == prompts("1", 64)
    assert len({tuple(ids[:4]) for ids in texts}) == 64


# The arithmetic.


def test_quantiles_are_those_of_numpy() -> None:
    pick = random.Random(3)
    for size in (1, 2, 7, 100):
        values = [pick.expovariate(1) for _ in range(size)]
        for share in (0.0, 0.5, 0.95, 0.99, 1.0):
            assert figures.quantile(values, share) == pytest.approx(np.quantile(values, share))


def test_a_ratio_of_equal_pairs_is_certain() -> None:
    assert figures.ratio([(3.0, 2.0), (6.0, 4.0), (1.5, 1.0)]) == {
        "ratio": 1.5,
        "low": 1.5,
        "high": 1.5,
        "n": 3,
    }


def test_the_bootstrap_of_two_pairs_is_known() -> None:
    """The means of two draws are 1, 2 and 4 with shares 1/4, 1/2 and 1/4.

    The 2.5th and 97.5th percentiles are 1 and 4.
    """
    assert figures.ratio([(1.0, 1.0), (4.0, 1.0)]) == {
        "ratio": 2.0,
        "low": 1.0,
        "high": 4.0,
        "n": 2,
    }


def test_turned_round_a_ratio_is_its_inverse() -> None:
    pairs = [(1.0, 1.3), (1.2, 1.1), (0.9, 1.6), (1.4, 1.5)]
    there, back = figures.ratio(pairs), figures.ratio([(b, a) for a, b in pairs])
    assert there["ratio"] * back["ratio"] == pytest.approx(1.0, abs=1e-3)
    assert there["low"] * back["high"] == pytest.approx(1.0, abs=2e-2)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    pick, inside, experiments = random.Random(11), 0, 200
    for seed in range(experiments):
        pairs = [
            (1.3 * math.exp(pick.gauss(0, 0.1)), math.exp(pick.gauss(0, 0.1))) for _ in range(12)
        ]
        found = figures.ratio(pairs, seed=seed, draws=600)
        inside += found["low"] <= 1.3 <= found["high"]
    assert 0.85 <= inside / experiments <= 0.99


GOOD = '{"wishes":[{"intent":"order_status","orders":["123456"]}]}'


def played(
    place: int, raw: str, *, want: Expected | None = None, ttft: float = 0.0, total: float = 0.0
) -> Played:
    """A turn as it comes back from an arm.

    Ten tokens read, of them eight from the cache, and five written in 40 ms after
    the first.
    """
    turn = Turn(
        "123456",
        "zh",
        strict(raw) or Triage(wishes=(Wish("other"),)),
        decisions=(Decision("order_status", "123456", "status.paid"),),
        usage=Usage(),
        reusable_tokens=9,
        reused_tokens=8,
        ttft_ms=ttft,
        total_ms=total,
    )
    meta = {
        "prompt_tokens": 10,
        "cached_tokens": 8,
        "completion_tokens": 5,
        "finish_reason": {"type": "stop"},
    }
    calls = [Call(1.0, 1.1, 1, 1.14, raw, meta), Call(1.2, 1.25, 0, 1.3, "", {})]
    return Played(
        "case",
        place,
        CaseTurn(text="123456", expect=want or Expected()),
        turn,
        "",
        calls,
        began=0.99,
    )


def test_figures_of_known_turns() -> None:
    want = Expected(intent="order_status", orders=["123456"], action="give_status", writes=["urge"])
    turns = [
        played(1, GOOD, ttft=10, total=20),
        played(2, "not JSON", ttft=20, total=40),
        played(3, GOOD, want=want, ttft=30, total=60),
        played(3, GOOD.replace("order_status", "invoice"), want=want, ttft=40, total=80),
    ]
    broken = Call(
        1.0, 1.0, 0, 9.0, "", {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0}
    )
    turns.append(
        Played("case", 1, CaseTurn(text="x"), None, "EngineBusy: full", [broken], began=1.0)
    )
    found = figures.summary([Pass(turns, 2, seconds=2.0, client_seconds=0.05)], strict)
    assert (found["turns"], found["errors"], found["conversations"]) == (5, 1, 2)
    assert (found["turns_per_s"], found["conversations_per_s"]) == (2.0, 1.0)
    assert found["ttft_ms"]["p50"] == 25
    assert found["latency_ms"] == {"p50": 50.0, "p95": 77.0, "p99": 79.4}
    assert found["tpot_ms"]["p50"] == pytest.approx(10)
    assert found["json_valid"] == 0.6
    assert found["third_turn"] == {"n": 2, "accuracy": 0.5}
    assert found["reused"] == pytest.approx(8 / 9, abs=1e-4)
    assert found["computed_tokens_per_turn"] == pytest.approx(4 * 2 / 5)
    assert found["client_cpu_ms_per_turn"] == 10.0


# The readers of the arms without a grammar.

INVOICE = Triage(wishes=(Wish("invoice", ("123456",)),))


@pytest.mark.parametrize(
    ("raw", "triage"),
    [
        ('{"wishes":[{"intent":"invoice","orders":["123456"]}]}', INVOICE),
        ('```json\n{"wishes": [{"intent": "invoice", "orders": ["123456"],}]}\n```', INVOICE),
        (
            "Sure! {'wishes': [{'intent': 'INVOICE', 'orders': ['#123456']}]} Anything else?",
            INVOICE,
        ),
        ("{“wishes”：[{“intent”：“invoice”，“orders”：[123456]}]}", INVOICE),
        ('{"intent":"invoice","orders":"123456"', INVOICE),
        (
            '{"wishes":[{"intent":"invoice","orders":["123456"],"colour":"red","title":7}, "x"]}',
            INVOICE,
        ),
        ('{"wishes":[{"intent":"invoice","orders":["none"]}]}', Triage(wishes=(Wish("invoice"),))),
        ('{"act":"confirm"}', Triage("confirm")),
        (
            '{"wishes":[{"intent":"return_exchange","remedy":"repair","cause":"bored","reason":"x"}]}',
            Triage(wishes=(Wish("return_exchange", (), {"remedy": "repair", "reason": "x"}),)),
        ),
    ],
)
def test_a_careful_hand_saves_what_can_be_saved(raw: str, triage: Triage) -> None:
    assert clean_json(raw) == triage


@pytest.mark.parametrize(
    "raw", ["", "I would like to help", "{", '{"intent":"shopping"}', "[1, 2]", '{"intent": {']
)
def test_what_cannot_be_saved_is_none(raw: str) -> None:
    assert clean_json(raw) is None


def test_the_blogs_regex_lets_invalid_json_through() -> None:
    raw = '{"wishes":[{"intent":"invoice","orders":["12\n34"],"reason":"x"}]}'
    assert re.fullmatch(BLOG_REGEX, raw)
    assert strict(raw) is None
    assert strict(raw.replace("\n", "")) == Triage(wishes=(Wish("invoice", ("1234",)),))


# The servers.


def test_vllm_is_asked_for_the_same_and_answers_in_the_same_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A desk that asks SGLang for a grammar and probabilities gets both from vLLM's events."""
    logprobs = {
        "tokens": ["{", "}"],
        "token_logprobs": [-0.1, -0.2],
        "top_logprobs": [{"{": -0.1, "[": -2.0}, None],
    }
    events = [
        {"choices": [{"text": "{}", "finish_reason": None, "logprobs": logprobs}]},
        {
            "choices": [{"text": "", "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 2},
        },
    ]
    root = str(settings.MINI_MODEL)
    monkeypatch.setattr(
        TimedEndpoint, "get_json", lambda self, path: {"data": [{"id": "m", "root": root}]}
    )
    monkeypatch.setattr(TimedEndpoint, "_events", lambda self, body: iter(events))
    endpoint = VllmEndpoint("http://127.0.0.1:1")
    assert (endpoint.model_name, endpoint.model_info["model_path"]) == ("m", root)
    (_, last) = endpoint._events({})
    assert last["text"] == "{}"
    assert last["meta_info"]["output_token_logprobs"] == [(-0.1, None, "{"), (-0.2, None, "}")]
    assert last["meta_info"]["output_top_logprobs"] == [[(-0.1, None, "{"), (-2.0, None, "[")], []]
    assert last["meta_info"]["finish_reason"] == {"type": "stop"}
    body = {
        "text": "hi",
        "sampling_params": {"max_new_tokens": 9, "ebnf": "root ::= x"},
        "top_logprobs_num": 5,
    }
    asked = endpoint._for_vllm(body | {"cache_salt": "arm"})
    assert asked == {
        "model": "m",
        "prompt": "hi",
        "max_tokens": 9,
        "temperature": 0.0,
        "structured_outputs": {"grammar": "root ::= x"},
        "cache_salt": "arm",
        "logprobs": 5,
    }
    warms = endpoint._for_vllm({"text": "hi", "sampling_params": {"max_new_tokens": 0}})
    assert warms["max_tokens"] == 1, "vLLM refuses 0"


def test_what_is_read_ahead_for_an_arm_is_found_by_the_arm(monkeypatch) -> None:
    sent: list[dict] = []
    info = {"model_path": str(settings.MINI_MODEL)}
    monkeypatch.setattr(TimedEndpoint, "get_json", lambda self, path: info)
    monkeypatch.setattr(TimedEndpoint, "post", lambda self, path, body: sent.append(body))
    endpoint = TimedEndpoint("http://127.0.0.1:1", arm="c")
    endpoint.warm("hi")
    endpoint.with_options(CallOptions(cache_salt="C001")).cache_prefix("hi")
    TimedEndpoint("http://127.0.0.1:1").warm("hi")
    assert [body.get("cache_salt") for body in sent] == ["c", "c:C001", None]


def test_the_context_holds_the_long_prompt_if_the_model_can(tmp_path) -> None:
    """Qwen's prompt from the wish files has 4,667 tokens."""
    assert engines.context_of("Qwen/Qwen2.5-7B-Instruct") == 16384
    assert engines.context_of(str(settings.MINI_MODEL)) == 4096
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 32768}')
    assert engines.context_of(str(tmp_path)) == 16384
    assert f"--context-length {engines.CONTEXT}" in (ROOT / "docs/performance.md").read_text()


def test_memory_counts_files_in_full_and_shared_pages_once() -> None:
    """Of one process it lies between its proportional and its resident set.

    A block that a fork shares counts once.
    """
    code = (
        "import os, time; block = b'x' * 2**26; "
        "print('up' if os.fork() else '', end='', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    family: list[psutil.Process] = []
    try:
        assert child.stdout is not None
        assert child.stdout.read(2) == "up"
        root = psutil.Process(child.pid)
        family = [root, *root.children(recursive=True)]
        assert len(family) == 2
        together, sums = memory_mb(family), [p.memory_full_info() for p in family]
        assert together is not None
        assert sum(m.pss for m in sums) <= together * 2**20 * 1.01
        assert together * 2**20 <= sum(m.rss for m in sums) - 60 * 2**20, (
            "the block of 64 MiB is shared"
        )
    finally:
        for process in family:
            process.kill()
        child.wait()
    assert memory_mb([]) is None


OWNER = """
import subprocess, sys, time
command = [sys.executable, sys.argv[1], "http.server", "0", "--bind", "127.0.0.1"]
child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_stopped_server_dies_with_its_owner() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(engines.DIE_WITH_PARENT)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as owner:
        assert owner.stdout is not None
        child = psutil.Process(int(owner.stdout.readline()))
        child.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        assert child.status() == psutil.STATUS_STOPPED
        owner.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs([child], 10)[1]


def test_what_is_missing_is_said_before_anything_is_started(
    run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_cli("bench", CSPROTO_VLLM_PYTHON="/nowhere/python")
    assert done.returncode == 1
    assert "make bench-setup" in done.stderr
    with pytest.raises(CsprotoError, match=r"no arm 'tensorrt'.*vllm-structured"):
        compare(quick_plan(("csproto", "tensorrt"), 1, (1,), 0))
    monkeypatch.setattr(engines, "gpu_name", lambda: "NVIDIA H200")
    with pytest.raises(CsprotoError, match="named by URL \\(missing: sglang-no-radix\\)"):
        engines.check(["sglang", "sglang-no-radix"], {"sglang": "http://127.0.0.1:1"})


def test_vllms_environment_is_pinned_and_free_of_cuda() -> None:
    wanted = [
        line
        for line in (ROOT / "requirements" / "vllm.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in wanted)
    assert not [line for line in wanted if line.startswith(("nvidia", "cuda", "flashinfer"))]


# Real servers.


@pytest.fixture(scope="module")
def on_one_server(server) -> dict:
    """Two arms on the server of the whole run, with little work."""
    plan = Plan(
        ("csproto", "free-text"), 2, (Load("closed-2", 4, 2), Load("open-4", 2, rate=4)), (1, 2, 2)
    )
    return compare(plan, urls={"sglang": server[0]})


def test_an_arm_finds_nothing_that_another_one_left(server, engine) -> None:
    """The same opening with the same nonce: only the arm itself finds it in the cache."""
    cached: dict[str, list[int]] = {"one": [], "two": []}
    for arm in ("one", "two", "one"):
        endpoint = TimedEndpoint(*server, arm=arm)
        desk = desk_on(endpoint, OrderApi(engine), clock=lambda: NOW)
        desk.turn(desk.open("C001", nonce="1" * 15), "你好")
        cached[arm].append(endpoint.calls[0].meta["cached_tokens"])
    assert cached["one"][0] == cached["two"][0] == 0
    assert cached["one"][1] > 0


@pytest.mark.parametrize("name", ["free-text", "blog-regex"])
def test_an_arm_without_the_grammar_takes_the_same_steps(server, engine, name: str) -> None:
    endpoint = TimedEndpoint(*server, arm=name)
    desk = ARMS[name].desk(endpoint, OrderApi(engine), NOW)
    conversation = desk.open("C001")
    for text in ("我被扣了两次99元 订单789012", "是"):
        turn = desk.turn(conversation, text)
        assert turn.reply
        assert turn.triage.wishes or turn.triage.act != "ask"
        assert all(wish.intent in default_handbook().wishes for wish in turn.triage.wishes)


def test_claims_and_replies_that_do_not_fit_are_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        TimedEndpoint, "get_json", lambda self, path: {"model_path": str(settings.MINI_MODEL)}
    )
    reader = ByHand(TimedEndpoint("http://127.0.0.1:1"), default_handbook().intents, {})
    for raw, kept in (
        ('{"amount":"99","times":2,"x":1}', {"amount": "99", "times": 2}),
        ("no idea", {}),
        ("{}", {}),
    ):
        monkeypatch.setattr(reader, "_run", lambda *_, raw=raw: Call(0, 0, 0, 0, raw, {}))
        assert json.loads(reader.claims([], "").text) == kept


def test_every_arm_plays_the_same_work(on_one_server) -> None:
    for load in ("closed-2", "open-4"):
        arms = [arm["loads"][load] for arm in on_one_server["arms"].values()]
        assert len({(arm["conversations"], arm["turns"]) for arm in arms}) == 1
        assert all(arm["errors"] == 0 for arm in arms), [arm["first_error"] for arm in arms]
        assert all(arm["ttft_ms"]["p50"] <= arm["latency_ms"]["p50"] for arm in arms)


def test_the_grammar_makes_json_valid_and_the_transcript_is_reused(on_one_server) -> None:
    found = on_one_server["arms"]["csproto"]["loads"]["closed-2"]
    assert found["json_valid"] == 1.0
    assert found["reused"] >= 0.95
    assert found["third_turn"]["n"] >= 4  # of eight conversations


def test_a_record_holds_rounds_ratios_and_the_machine_and_no_place_of_it(on_one_server) -> None:
    text = json.dumps(on_one_server)
    assert str(Path.home()) not in text
    assert str(settings.REPOSITORY) not in text
    assert on_one_server["hardware"]["cores"] >= 1
    assert on_one_server["versions"]["sglang"] == settings.SGLANG_VERSION
    for found in on_one_server["ratios"]:
        assert found["low"] <= found["ratio"] <= found["high"]
        assert found["of"] == "csproto"
    assert {found["figure"] for found in on_one_server["ratios"]} == set(COMPARED)
    shown = "\n".join(lines(on_one_server))
    assert "turns/s" in shown
    assert "closed-2" in shown


def test_pictures_have_units_on_their_axes(on_one_server) -> None:
    drawn = [
        pictures.throughput(on_one_server),
        pictures.waiting(on_one_server, "closed-2"),
        pictures.token_shares(on_one_server, "closed-2"),
        pictures.ratio_chart(on_one_server, "latency_ms_p50"),
    ]
    for figure in drawn:
        (ax,) = figure.axes
        assert re.search(r"at once|milliseconds|tokens|ratio", ax.get_xlabel())
    assert "per second" in drawn[0].axes[0].get_ylabel()
    assert set(pictures.ARM_COLOURS) == set(ARMS)
    assert len(set(pictures.ARM_COLOURS.values())) == len(ARMS)


def test_the_plans_are_what_the_documents_say() -> None:
    full = full_plan(DEFAULT, 6, (1, 2, 4), 0)
    assert [load.name for load in full.loads] == [
        "cold", "closed-1", "closed-4", "closed-16", "open-1", "open-2", "open-4"
    ]  # fmt: skip
    quick = quick_plan(DEFAULT, 3, (1, 2, 4), 0)
    assert (
        sum(load.conversations for load in quick.loads)
        < sum(load.conversations for load in full.loads) / 2
    )


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_quick_comparison_of_servers_of_its_own(run_cli, tmp_path: Path) -> None:
    """vLLM where its environment is there, else SGLang with its cache off."""
    other = "vllm-structured" if settings.vllm_python().exists() else "no-radix"
    words = (
        "bench",
        "--quick",
        "--rounds",
        "2",
        "--arms",
        f"csproto,{other}",
        "--json",
        "--out",
        str(tmp_path / "r.json"),
    )
    done = run_cli(*words, timeout=1700, CSPROTO_BASE_URL="")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "r.json").read_text())
    arms = {name: arm["loads"]["closed-4"] for name, arm in record["arms"].items()}
    assert all(found["errors"] == 0 for found in arms.values())
    assert all(found["json_valid"] == 1.0 for found in arms.values())
    assert arms["csproto"]["prompt_tokens_per_turn"] == pytest.approx(
        arms[other]["prompt_tokens_per_turn"], rel=0.1
    )
    assert arms["csproto"]["computed_tokens_per_turn"] < arms[other]["computed_tokens_per_turn"]
    for engine in record["engines"].values():
        assert engine["peak_memory_mb"] > 100
        assert engine["idle_share_of_a_core"] < 0.5
        assert all(
            speed > 0 for speeds in engine["alone_tokens_per_s"].values() for speed in speeds
        )
        assert not [word for word in engine["flags"] if word.startswith("/")]
    assert {"peak_memory_mb", "tokens_per_s"} <= {found["figure"] for found in record["ratios"]}
    assert not [
        p
        for p in psutil.process_iter(["cmdline"])
        if str(engines.DIE_WITH_PARENT) in (p.info["cmdline"] or [])
    ]
