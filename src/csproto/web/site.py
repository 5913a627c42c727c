"""What the routes of the page share: the desk, its visitors, and who is signed in."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fastapi import Request

from csproto.chat import records
from csproto.chat.engine import engine_state, shop_of
from csproto.chat.session import ChatSession
from csproto.desk.assistant import Assistant
from csproto.shop.orders import CustomerUnknown, OrderSystemDown, database_errors_typed
from csproto.web.health import Health
from csproto.web.limits import Limits, Refused
from csproto.web.locks import Locks
from csproto.web.metrics import Metrics
from csproto.web.rates import SharedAdmission, SharedRates
from csproto.web.running import Answers
from csproto.web.shared import Database, SharedVisitors
from csproto.web.visitors import COOKIE, Signer, Visitor, Visitors

SignIn = Callable[[Request, str | None], str]  # raises SignedOut


def demo_sign_in(request: Request, wished: str | None) -> str:
    """Sign every visitor in as the demo customer they choose.

    A real shop has its own function here, which ignores the wish.
    """
    return wished or "C001"


class Site:
    """What the routes share."""

    def __init__(
        self,
        assistant: Assistant,
        sign_in: SignIn,
        limits: Limits,
        secure: bool,
        signer: Signer,
    ) -> None:
        self.assistant, self.sign_in, self.limits = assistant, sign_in, limits
        self.secure, self.metrics = secure, Metrics()
        self.answers = Answers(limits, self.metrics)
        self.locks: Locks | None = None  # those of the database, if processes share it
        self.rates: SharedRates | None = None
        self.visitors = self._visitors(signer)
        self.health, self.readiness = Health(assistant), Health(assistant, generates=False)
        self.metrics.show("answers_under_way", "Answers under way", self.answers.__len__)
        self.metrics.show(
            "waiting", "Messages that wait for their turn", self.answers.queue.__len__
        )
        self.metrics.show("visitors", "Visitors known to this process", self.visitors.__len__)
        self.metrics.show_tickets(shop_of(assistant).engine)

    def _visitors(self, signer: Signer) -> Visitors:
        """Return the visitors: in the database if other processes can share it."""
        engine, assistant = shop_of(self.assistant).engine, self.assistant
        if engine.dialect.name != "postgresql":
            return Visitors(self.limits, signer)
        self.locks, self.rates = Locks(engine), SharedRates(engine)
        assistant.admission = SharedAdmission(assistant.admission.per_minute, self.rates)
        return SharedVisitors(self.limits, signer, Database(engine, self.locks, assistant))

    def visitor(self, request: Request) -> tuple[str, Visitor | None]:
        """Return the customer who is signed in, and their chat if they have one.

        A cookie alone opens no chat: if another customer is signed in, the chat of the
        one before is stopped and forgotten. Raises SignedOut.
        """
        visitor = self.visitors.find(request.cookies.get(COOKIE))
        customer = self.sign_in(request, visitor.chat.customer_id if visitor else None)
        if visitor and visitor.chat.customer_id != customer:
            self.visitors.remove(visitor)
            visitor = None
        return customer, visitor

    def known(self, request: Request) -> Visitor:
        """Return the visitor. Raises SignedOut, and Refused(404) for one without a chat."""
        _, visitor = self.visitor(request)
        if visitor is None:
            raise Refused(404, "not_found")
        self.drop_if_erased(visitor)
        return visitor

    def drop_if_erased(self, visitor: Visitor) -> None:
        """Drop a chat whose customer was erased. Raises CustomerUnknown then.

        A database that does not answer erases nobody, so the chat is kept.
        """
        try:
            with suppress(OrderSystemDown):
                shop_of(self.assistant).known(visitor.chat.customer_id)
        except CustomerUnknown:
            self.visitors.remove(visitor)
            raise

    def admitted(self, request: Request, headers: dict[str, str]) -> Visitor:
        """Return the visitor; a new one gets a chat, and a cookie among the headers.

        Raises SignedOut, CustomerUnknown and OrderSystemDown.
        """
        customer, visitor = self.visitor(request)
        return visitor or self.begin(customer, request, headers)

    def begin(
        self,
        customer: str,
        request: Request,
        headers: dict[str, str],
        *,
        before: Visitor | None = None,
        conversation: str = "",
    ) -> Visitor:
        """Begin a new chat of a signed-in customer, with its cookie among the headers.

        A chat never gets another customer: a request that was admitted just before
        would find the wrong chat.

        before: the chat that the new one replaces.
        conversation: the number of a conversation to take up again, or empty.

        Raises CustomerUnknown, ConversationUnknown and OrderSystemDown.
        """
        chat = ChatSession(self.assistant, customer, conversation_id=conversation, reasons=False)
        if before:
            self.visitors.remove(before)
        visitor, cookie = self.visitors.add(chat)
        secure = "; Secure" if self.secure or request.url.scheme == "https" else ""
        headers["Set-Cookie"] = (
            f"{COOKIE}={cookie}; HttpOnly; SameSite=Strict; Path=/; "
            f"Max-Age={self.limits.session_age:.0f}{secure}"
        )
        return visitor

    def state(self, customer: str, visitor: Visitor | None) -> dict[str, Any]:
        """Return a customer's chat as the page shows it. Raises OrderSystemDown."""
        customers: list[dict[str, str]] = []
        if self.sign_in is demo_sign_in:
            with database_errors_typed():
                customers = records.customers(shop_of(self.assistant).engine)
        info = {
            "customer": customer,
            "conversation": visitor.chat.conversation_id if visitor else "",
            "customers": customers,
            "engine": engine_state(self.assistant),
            "busy": bool(visitor and visitor.answering),
            "demo": self.sign_in is demo_sign_in,
        }
        return {"info": info, "messages": visitor.messages() if visitor else []}
