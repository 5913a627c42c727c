"""How sure the model was, from the probabilities of its tokens, whatever the tokenizer."""

import math

import pytest

from csproto.desk.sureness import Token, sureness

INTENTS = ["refund_status", "return_exchange", "order_status", "other"]


def token(text: str, p: float, **rivals: float) -> Token:
    return Token(text, math.log(p), tuple((t, math.log(q)) for t, q in rivals.items()))


def test_one_token_for_the_whole_beginning() -> None:
    first = Token(
        '{"wishes":[{"intent":"order_status"',
        math.log(0.7),
        (('{"wishes":[{"intent":"refund_status"', math.log(0.2)), ('{"act":"deny"', math.log(0.1))),
    )
    sure, runner_up = sureness([first, Token("}]}", math.log(0.5))], INTENTS)
    assert sure == pytest.approx(0.7)
    assert runner_up == "refund_status"


def test_many_tokens_of_another_tokenizer() -> None:
    tokens = [
        Token('{"wishes":[{"intent":"', math.log(0.9)),
        Token("re", math.log(0.8), (("order", math.log(0.15)),)),
        Token("fund", math.log(0.6), (("turn", math.log(0.4)),)),
        Token('_status"', math.log(1.0)),
        Token("}]}", math.log(0.3)),
    ]
    sure, runner_up = sureness(tokens, INTENTS)
    assert sure == pytest.approx(0.9 * 0.8 * 0.6)
    assert runner_up == "return_exchange"


def test_an_act_alone_has_the_probability_of_the_whole() -> None:
    sure, runner_up = sureness(
        [Token('{"act":"confirm"', math.log(0.9)), Token("}", math.log(0.5))], INTENTS
    )
    assert sure == pytest.approx(0.45)
    assert runner_up is None


def test_without_probabilities_it_is_certain() -> None:
    assert sureness([], INTENTS) == (1.0, None)
