"""What simple methods make of the same messages: keywords, and a linear classifier.

The classifier learns from the same corpus as the mini model.
"""

import re
from collections.abc import Sequence
from typing import Any, Protocol

from csproto.desk.guess import vectorizer
from csproto.desk.handbook import Handbook, default_handbook
from csproto.desk.transcript import clean
from csproto.measure.cases import Case
from csproto.measure.play import judged
from csproto.measure.report import Report
from csproto.minimodel.classifier import labelled_lines

# The first pattern that matches names the intent, so the more specific ones come first.
KEYWORDS = {
    "human_agent": r"人工|真人|转接|客服电话|human|agent|representative|real person|operator",
    "complaint": r"投诉|举报|差评|12315|态度|complain|terrible|awful|report you",
    "invoice": r"发票|开票|抬头|税号|专票|invoice|receipt|\bvat\b",
    "not_received": r"没收到|显示签收|丢件|not received|never (?:arrived|came)|says delivered",
    "refund_status": r"退款.*(?:到账|进度|多久|什么时候|没到)|(?:when|where).*(?:refund|money)",
    "tracking_number": r"单号|哪家快递|什么快递|tracking (?:number|id)|which (?:carrier|courier)",
    "change_address": r"(?:改|换|错).*(?:地址|收货|电话|收件)|(?:change|wrong|update).*address",
    "change_order": r"(?:改|换).*(?:颜色|尺码|数量|备注)|change.*(?:colou?r|size|quantity)",
    "cancel_order": r"取消|拒收|cancel|don'?t want it",
    "return_exchange": r"退|换货|售后|坏了|破|质量|return|exchange|refund|broken|damaged|faulty",
    "payment_issue": r"付款|支付|扣款|扣了|付不|pay|charged|card",
    "urge_shipment": r"催|快点|赶紧|尽快|怎么还不发|hurry|urgent|asap|still not shipped",
    "order_status": r"到哪|物流|发货|什么时候到|快递|where is|status|arriv|deliver|shipped",
    "shop_question": r"怎么|如何|可以.*吗|多少钱|包邮|how|do you|can i|warranty|discount|coupon",
}


class Keywords:
    """Intents by keywords alone, as many shops still do it."""

    def intents(self, texts: Sequence[str]) -> list[str]:
        """Return the intent of each message; `other` where no word is known."""
        return [self._intent(clean(text)) for text in texts]

    def _intent(self, text: str) -> str:
        found = (name for name, words in KEYWORDS.items() if re.search(words, text, re.I))
        return next(found, "other")


class LinearClassifier:
    """TF-IDF over character n-grams and a linear support vector machine, one for both languages.

    It reads a message alone: no orders, no dialogue, no slots.
    """

    def __init__(self, handbook: Handbook | None = None) -> None:
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import LinearSVC

        self._pipeline = make_pipeline(vectorizer(min_df=2), LinearSVC(C=0.5))
        self._pipeline.fit(*labelled_lines(handbook or default_handbook()))

    def intents(self, texts: Sequence[str]) -> list[str]:
        """The likeliest intent of each message."""
        return list(self._pipeline.predict(texts))


class Classifier(Protocol):
    """Something that names the intent of messages."""

    def intents(self, texts: Sequence[str]) -> list[str]:
        """Return the likeliest intent of each message."""


def baseline_figures(cases: Sequence[Case]) -> dict[str, Any]:
    """Return the accuracy of intents by each baseline, in all and by language."""
    found = {}
    for name, classifier in (("keywords", Keywords()), ("linear", LinearClassifier())):
        report = Report(baseline_rows(classifier, cases))
        by_language = {
            str(language): report.share("intent", group)
            for language, group in report.frame.groupby("lang")
        }
        found[name] = {"intent": report.share("intent"), "by_lang": by_language}
    return found


def baseline_rows(classifier: Classifier, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """The classifier's intents for cases, as rows that a `Report` takes."""
    turns = [(case, number, turn) for case in cases for number, turn in enumerate(case.turns, 1)]
    rows = []
    for (case, number, turn), intent in zip(
        turns, classifier.intents([t.text for *_, t in turns]), strict=True
    ):
        wishes = [{"intent": intent, "orders": []}]
        row: dict[str, Any] = {"id": case.id, "lang": case.lang, "turn": number, "text": turn.text}
        row |= {
            "triage": {"act": "ask", "wishes": wishes},
            "decisions": [],
            "writes": [],
            "error": None,
        }
        intents_only = turn.expect.model_copy(
            update={"orders": None, "action": None, "writes": None}
        )
        row["right"] = judged(intents_only, row)
        rows.append(row | {"expect": intents_only.model_dump(exclude_none=True)})
    return rows
