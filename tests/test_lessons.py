"""What the notebooks call.

Judging answers, intervals, kept results, the table of claims, recorded launches.
"""

import json
import uuid

import numpy as np
import pandas as pd
import pytest

from csproto.desk.handbook import default_handbook
from csproto.desk.transcript import Message
from csproto.desk.triage import Triage, Wish, from_wire
from csproto.engine.endpoint import CallOptions
from csproto.lessons import extraction, launching, results
from csproto.lessons.extraction import Prepared
from csproto.lessons.frontend import asking, one_of, shape, voting
from csproto.measure.statistics import bootstrap

HANDBOOK = default_handbook()
OWN = ("789012", "123456")


def prepared(text: str) -> Prepared:
    """A message of the customer with the orders OWN."""
    return Prepared(text, OWN, (Message("user", text),))


@pytest.mark.parametrize(
    ("text", "finish", "outcome"),
    [
        ('{"wishes":[{"intent":"other"}]}', "stop", "valid"),
        ('{"wishes":[{"intent":"other"}]}', "length", "cut off"),
        ('{"wishes":[{"intent":"praise"}]}', "stop", "wrong shape"),
        ('{"act":"confirm"}', "stop", "wrong shape"),
        ("{}", "stop", "wrong shape"),
        ("[]", "stop", "wrong shape"),
        ('{"wishes":[{"intent":"other","reason":"a\nb"}]}', "stop", "not JSON"),
        ('```json\n{"wishes":[{"intent":"other"}]}\n```', "stop", "not JSON"),
        ("", "stop", "not JSON"),
    ],
)
def test_an_answer_is_judged(text: str, finish: str, outcome: str) -> None:
    judged, found = extraction.judged(text, finish)
    assert judged == outcome
    assert (found is not None) is (outcome == "valid")


@pytest.mark.parametrize(
    ("orders", "text", "made_up"),
    [
        ((), "你好", False),
        (("123456",), "你好", False),
        (("345678",), "订单345678到哪了", False),
        (("JD1001",), "jd-1001 please", False),
        (("12345",), "订单6789", True),
        (("123456", "12345"), "both", True),
    ],
)
def test_an_order_that_is_neither_the_customers_nor_typed_is_invented(
    orders: tuple[str, ...], text: str, made_up: bool
) -> None:
    found = Triage(wishes=(Wish("order_status", orders),))
    assert extraction.invented(found, prepared(text)) is made_up


@pytest.mark.parametrize(
    ("text", "way", "fits"),
    [
        ('{"wishes":[{"intent":"return_exchange","orders":["123456"]}]}', "regex", False),
        ('{"wishes":[{"intent":"x","orders":["y\nz"],"reason":""}]}', "regex", True),
        ('{"wishes":[{"intent":"invoice","orders":["777777"]}]}', "schema", True),
        ('{"wishes":[{"intent":"praise"}]}', "schema", False),
        ('{"wishes":[{"intent":"invoice","orders":["777777"]}]}', "grammar", False),
        ('{"wishes":[{"intent":"invoice","orders":["345678"]}]}', "grammar", True),
        ('{"act":"confirm"}', "grammar", False),
    ],
)
def test_what_each_way_allows(text: str, way: str, fits: bool) -> None:
    import xgrammar

    read = {
        "regex": xgrammar.Grammar.from_regex,
        "json_schema": xgrammar.Grammar.from_json_schema,
        "ebnf": xgrammar.Grammar.from_ebnf,
    }
    ((kind, constraint),) = extraction.ways(HANDBOOK)[way](prepared("345678的发票")).items()
    assert xgrammar.testing._is_grammar_accept_string(read[kind](constraint), text) is fits


def test_free_answers_have_no_constraint() -> None:
    assert extraction.ways(HANDBOOK)["free"](prepared("hello")) == {}


def test_the_bootstrap_finds_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(3).normal(10, 2, size=400)
    low, high = bootstrap(values, np.mean)
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * 2 / np.sqrt(400), rel=0.15)


def test_a_summary_counts_invalid_answers_as_wrong() -> None:
    frame = pd.DataFrame(
        {
            "way": "x",
            "outcome": ["valid"] * 3 + ["not JSON"],
            "intent": [True, True, False, False],
            "orders": [True, True, None, False],
            "invented": False,
            "tokens": [1, 2, 3, 10],
            "ms": [1.0, 2.0, 3.0, 100.0],
        }
    )
    row = extraction.summary(frame).loc["x"]
    assert (row["valid"], row["intent"], row["invented"]) == (0.75, 0.5, 0.0)
    assert row["orders"] == pytest.approx(2 / 3), "a message without an expectation does not count"
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
    found = Triage(wishes=(Wish("invoice", ("123456",)), Wish("other")))
    forms = extraction.forms(found)
    assert forms["compact, without defaults"] == found.to_wire()
    assert [from_wire(text) for text in forms.values()] == [found] * 3


@pytest.mark.parametrize(
    ("message", "text", "fits"),
    [
        ("退货 123456", '{"wishes":[{"intent":"return_exchange","orders":["123456"]}]}', True),
        ("退货 345678", '{"wishes":[{"intent":"return_exchange","orders":["345678"]}]}', True),
        ("退货 123456", '{"wishes":[{"intent":"return_exchange","orders":["123457"]}]}', False),
        ("退货", '{"wishes":[{"intent":"return_exchange"}]}', True),
        ("退货", '{"wishes":[{"intent":"return_exchange","orders":[""]}]}', False),
    ],
)
def test_the_shape_of_a_triage_as_a_regular_expression(message: str, text: str, fits: bool) -> None:
    import xgrammar

    grammar = xgrammar.Grammar.from_regex(shape(HANDBOOK.intents, OWN, message))
    assert xgrammar.testing._is_grammar_accept_string(grammar, text) is fits


def test_texts_as_a_regular_expression() -> None:
    import xgrammar

    texts = ["订单1（衬衫）: $5.00 (A+B) [x]?", "a|b", "^{2}\\"]
    grammar = xgrammar.Grammar.from_regex(one_of(texts))
    accepts = xgrammar.testing._is_grammar_accept_string
    assert [accepts(grammar, text) for text in texts] == [True] * 3
    assert [accepts(grammar, text) for text in ("a", "订单1（衬衫）: $5x00", "")] == [False] * 3


def test_results_are_kept_and_read_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CSPROTO_RESULTS", str(tmp_path))
    assert results.saved("03_dsl_workflow") == {}
    assert results.save("03_dsl_workflow", {"claims": {8: "7 %"}}) == {"claims": {"8": "7 %"}}
    table = results.claims({7: "ours"}, earlier=("02_setup_and_server", "03_dsl_workflow"))[
        "measured here"
    ]
    assert table[7] == "ours"
    assert table[8] == "7 %"
    assert "run 02_setup_and_server" in table[1]
    with pytest.raises(results.UnknownClaim):
        results.claims({99: "?"})


def test_every_claim_of_the_blog_is_answered_by_one_notebook() -> None:
    assert list(results.blog()) == list(range(1, 19))
    assert all(
        claim["says"] and claim["notebook"][:2].isdigit() for claim in results.blog().values()
    )


@pytest.mark.long
def test_the_recorded_launches_cover_every_variant() -> None:
    found = launching.recorded()
    assert {row["variant"] for row in found["launches"]} == set(launching.VARIANTS)
    assert found["sglang"]
    assert found["hardware"]["cores"]
    costs = launching.launch_costs(found)
    assert (
        costs.loc["--max-total-tokens 262144", "MiB"]
        > costs.loc["--max-total-tokens 4096", "MiB"] + 100
    )
    assert json.dumps(found)


def test_batches_and_forks_compute_their_prefix_under_the_salt_they_run_with(endpoint) -> None:
    ebnf = extraction.ebnf(HANDBOOK, prepared("hello"))
    salted = endpoint.with_options(CallOptions(cache_salt=uuid.uuid4().hex, ebnf=ebnf))
    program = asking.bind(system=f"{uuid.uuid4()} {uuid.uuid4()}", options={"max_tokens": 100})
    batch = program.run_batch([{"text": "a"}, {"text": "b"}], backend=salted, num_threads=1)
    said = [Message("system", str(uuid.uuid4())), Message("user", "hello")]
    forks = voting.run(said, 2, None, backend=salted, use_thread=False)
    assert min(state.get_meta_info("answer")["cached_tokens"] for state in batch) > 20
    assert min(cached for _, cached in forks.ret_value) > 20
