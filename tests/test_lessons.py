"""What the notebooks call: judging answers, intervals, kept results, the table of claims, recorded launches."""

import json
import uuid

import numpy as np
import pandas as pd
import pytest

from csproto.engine.endpoint import CallOptions
from csproto.lessons import extraction, launching, results
from csproto.lessons.frontend import asking, shape, voting
from csproto.triage import Triage, grammar


@pytest.mark.parametrize(
    ("text", "finish", "outcome"),
    [
        ('{"intent":"other"}', "stop", "valid"),
        ('{"intent":"other"}', "length", "cut off"),
        ('{"intent":"praise"}', "stop", "wrong shape"),
        ("{}", "stop", "wrong shape"),
        ("[]", "stop", "wrong shape"),
        ('{"intent":"other","reason":"a\nb"}', "stop", "not JSON"),
        ('```json\n{"intent":"other"}\n```', "stop", "not JSON"),
        ("", "stop", "not JSON"),
    ],
)
def test_an_answer_is_judged(text: str, finish: str, outcome: str) -> None:
    judged, found = extraction.judged(text, finish)
    assert judged == outcome
    assert (found is not None) is (outcome == "valid")


@pytest.mark.parametrize(
    ("order_id", "message", "made_up"),
    [
        ("123456", "订单＃１２３４５６到哪了", False),
        ("", "你好", False),
        ("12345", "订单678", True),
        ("JD1", "jd-1 please", False),
    ],
)
def test_an_order_id_that_nobody_wrote_is_invented(order_id: str, message: str, made_up: bool) -> None:
    assert extraction.invented(order_id, message) is made_up


def test_the_bootstrap_finds_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(3).normal(10, 2, size=400)
    low, high = extraction.bootstrap(values, np.mean)
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * 2 / np.sqrt(400), rel=0.15)


def test_a_summary_counts_invalid_answers_as_wrong() -> None:
    frame = pd.DataFrame(
        {
            "way": "x",
            "outcome": ["valid"] * 3 + ["not JSON"],
            "intent": [True, True, False, False],
            "order id": [True, True, True, False],
            "invented": False,
            "tokens": [1, 2, 3, 10],
            "ms": [1.0, 2.0, 3.0, 100.0],
        }
    )
    row = extraction.summary(frame).loc["x"]
    assert (row["valid"], row["intent"], row["order id"], row["invented"]) == (0.75, 0.5, 0.75, 0.0)
    assert (row["tokens"], row["ms"]) == (4.0, 2.5)
    assert row["valid low"] < 0.75 < row["valid high"]


def test_a_sample_is_the_same_for_the_same_seed_and_never_tiny() -> None:
    assert extraction.sample(20) == extraction.sample(20) != extraction.sample(20, seed=1)
    with pytest.raises(extraction.TooFewMessages, match="10 or more"):
        extraction.sample(9)


def test_what_a_class_of_characters_lets_through() -> None:
    table = extraction.verdicts({"fine": "x", "line break": "x\ny", "escaped": '\\"'})
    assert table.loc["line break"].to_list() == [True, False, False]
    assert not (table["our grammar"] & ~table["json.loads"]).any()


def test_the_compact_form_is_the_wire_format_and_all_forms_say_the_same() -> None:
    wish = Triage(intent="invoice", order_id="123456")
    forms = extraction.forms(wish)
    assert forms["compact, defaults left out"] == wish.to_wire()
    assert [Triage.model_validate_json(text) for text in forms.values()] == [wish] * 3


@pytest.mark.parametrize(
    ("message", "text", "fits"),
    [
        ("退货 123456", '{"intent":"return_exchange","order_id":"123456"}', True),
        ("退货 123456", '{"intent":"return_exchange","order_id":"123457"}', False),
        ("退货", '{"intent":"return_exchange"}', True),
        ("退货", '{"intent":"return_exchange","order_id":""}', False),
    ],
)
def test_the_shape_of_a_triage_as_a_regular_expression(message: str, text: str, fits: bool) -> None:
    import xgrammar

    grammar = xgrammar.Grammar.from_regex(shape(message))
    assert xgrammar.testing._is_grammar_accept_string(grammar, text) is fits


def test_results_are_kept_and_read_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CSPROTO_RESULTS", str(tmp_path))
    assert results.saved("03_dsl_workflow") == {}
    assert results.save("03_dsl_workflow", {"claims": {8: "7 %"}}) == {"claims": {"8": "7 %"}}
    table = results.claims({7: "ours"}, earlier=("02_setup_and_server", "03_dsl_workflow"))["measured here"]
    assert table[7] == "ours"
    assert table[8] == "7 %"
    assert "run 02_setup_and_server" in table[1]
    with pytest.raises(results.UnknownClaim):
        results.claims({99: "?"})


def test_every_claim_of_the_blog_is_answered_by_one_notebook() -> None:
    assert list(results.blog()) == list(range(1, 19))
    assert all(claim["says"] and claim["notebook"][:2].isdigit() for claim in results.blog().values())


@pytest.mark.long
def test_the_recorded_launches_cover_every_variant() -> None:
    found = launching.recorded()
    assert {row["variant"] for row in found["launches"]} == set(launching.VARIANTS)
    assert found["sglang"]
    assert found["hardware"]["cores"]
    costs = launching.launch_costs(found)
    assert costs.loc["--max-total-tokens 262144", "MiB"] > costs.loc["--max-total-tokens 4096", "MiB"] + 100
    assert json.dumps(found)


def test_batches_and_forks_compute_their_prefix_under_the_salt_they_run_with(endpoint) -> None:
    options = CallOptions(cache_salt=uuid.uuid4().hex, ebnf=grammar("hello"))
    program = asking.bind(system=f"{uuid.uuid4()} {uuid.uuid4()}", options={"max_tokens": 100})
    batch = program.run_batch([{"text": "a"}, {"text": "b"}], backend=endpoint.with_options(options), num_threads=1)
    forks = voting.run(str(uuid.uuid4()), "hello", 2, backend=endpoint.with_options(options), use_thread=False)
    assert min(state.get_meta_info("answer")["cached_tokens"] for state in batch) > 20
    assert min(cached for _, cached in forks.ret_value) > 20
