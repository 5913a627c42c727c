"""The payment check by itself: what a customer says about a payment, extracted under a grammar, beside the score of the shop's records.

A turn does not call this: its triage has extracted the same claim already, and the rule is the same (`Case.decide`), so a second call would
cost a customer half a second and change nothing. It is here for whoever looks at payments without a conversation: a queue of messages, a human agent.

The claim and the score never meet. The score counts the shop's records alone (account age, amount, failures, address match, velocity, double
charge), so no text lowers it; the claim is what a human reads.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from csproto.engine.endpoint import CallOptions, Endpoint
from csproto.engine.grammar import SPAN_CHARACTERS, Copied, to_ebnf
from csproto.policy import Rules, Verdict, default_rules, risk_score
from csproto.settings import TRIAGE_TOKENS
from csproto.shop.orders import CustomerFacts, OrderView
from csproto.transcript import Message, clean, replay, system_prompt
from csproto.triage import Intent, canonical_order_id, order_id_candidates


def amounts(text: str) -> list[str]:
    """What in a message could be an amount of money, as it stands there."""
    return list(dict.fromkeys(re.findall(r"[¥$€£]? ?\d[\d,]*(?:\.\d+)?(?: ?(?:元|块|yuan|rmb|dollars?|usd))?", text)))


class Claim(BaseModel):
    """What a customer says about a payment. A triage narrowed to payments, so that a model that has learnt triage knows it, with the amount besides."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    intent: Literal[Intent.PAYMENT_ISSUE]
    order_id: Annotated[str, BeforeValidator(canonical_order_id), Copied(order_id_candidates), Field(max_length=32)] = (
        ""
    )
    reason: Annotated[str, Copied(), Field(max_length=SPAN_CHARACTERS)] = ""
    amount: Annotated[str, Copied(amounts), Field(max_length=32)] = ""


@dataclass(frozen=True)
class Assessment:
    """The claim as it was read, and what the records give: the verdict, its rule, the score and the signs that counted."""

    claim: Claim
    verdict: Verdict
    rule: str
    score: int
    signs: list[str]


@cache
def program() -> Any:
    """The DSL program. Built on first use, because importing sglang takes seconds."""
    import sglang as sgl

    @sgl.function
    def payment_risk(s, prompt: str, text: str):  # type: ignore[no-untyped-def]
        replay(s, [Message("system", prompt)])
        s += sgl.user(text)
        s += sgl.assistant(sgl.gen("claim", max_tokens=TRIAGE_TOKENS))

    return payment_risk


def assess(
    endpoint: Endpoint,
    text: str,
    order: OrderView,
    facts: CustomerFacts,
    now: datetime,
    *,
    rules: Rules | None = None,
    options: CallOptions | None = None,
    temperature: float = 0.0,
) -> Assessment:
    """Read a customer's message about the payment of one order, and score that payment.

    order: chosen by the caller. An order id in the text is part of the claim: it must not choose which payment is looked at. Raises EngineError.
    """
    text, rules, options = clean(text), rules or default_rules(), options or CallOptions()
    options.ebnf = to_ebnf(Claim, text)
    state = program().run(
        system_prompt(endpoint.model_name),
        text,
        temperature=temperature,
        backend=endpoint.with_options(options),
        use_thread=False,
    )
    score, signs = risk_score(order, facts, now, rules)
    verdict = rules.verdict(score)
    return Assessment(Claim.model_validate_json(state["claim"]), verdict, f"payment.{verdict}", score, signs)
