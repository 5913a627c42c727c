"""What the page shows beside the chat: the customer's orders and earlier conversations.

The demo's visitors can also bring the demo data back.
"""

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from csproto.chat import records
from csproto.chat.engine import shop_of
from csproto.chat.order_list import order_list
from csproto.chat.tickets import progress
from csproto.shop import demo
from csproto.shop.orders import database_errors_typed
from csproto.web import schema

if TYPE_CHECKING:
    from csproto.web.site import Site


def add_account(app: FastAPI, site: "Site", *, is_demo: bool) -> None:
    """Add the routes. is_demo: whether visitors may reset the data."""

    def signed_in(request: Request) -> str:
        customer, _ = site.visitor(request)
        return customer

    customer_id = Annotated[str, Depends(signed_in)]
    problems = schema.PROBLEMS | schema.MISSING

    @app.get("/api/orders", response_model=list[schema.ShownOrder], responses=problems)
    def orders(customer: customer_id) -> Any:
        """Return the customer's orders, newest first, each with messages that fit it."""
        return order_list(site.assistant, customer)

    @app.get("/api/conversations", response_model=list[schema.Earlier], responses=schema.PROBLEMS)
    def conversations(customer: customer_id) -> Any:
        """Return the customer's conversations, newest first.

        `POST /api/session` with the number of one takes it up again.
        """
        with database_errors_typed():
            return records.conversations(shop_of(site.assistant).engine, customer)

    @app.get("/api/tickets", response_model=list[schema.TicketState], responses=schema.PROBLEMS)
    def tickets(request: Request) -> Any:
        """Return the tickets of this conversation: open, taken or closed, and since when."""
        customer, visitor = site.visitor(request)
        conversation = visitor.chat.conversation_id if visitor else ""
        return progress(shop_of(site.assistant).engine, conversation, customer)

    if is_demo:
        _add_reset(app, site)


def _add_reset(app: FastAPI, site: "Site") -> None:
    @app.post(
        "/api/demo/reset",
        response_model=schema.SessionState,
        responses=schema.PROBLEMS | {409: schema.problem_of("Not the demo's data.")},
    )
    def reset(request: Request) -> Response:
        """Bring the demo data back, and begin a new conversation."""
        customer, visitor = site.visitor(request)
        with database_errors_typed():
            demo.reset(shop_of(site.assistant).engine, site.assistant.clock())
        headers: dict[str, str] = {}
        fresh = site.begin(customer, request, headers, before=visitor)
        return JSONResponse(site.state(customer, fresh), headers=headers)
