"""The application: the page, the JSON API, and the chat behind each cookie."""

import json
import logging
import mimetypes
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from csproto import settings
from csproto.assistant import Assistant
from csproto.chat import records
from csproto.chat.engine import engine_state
from csproto.chat.export import FORMATS, exported
from csproto.chat.messages import Step
from csproto.chat.session import ChatSession, MessageUnknown, NothingToTakeBack
from csproto.chat.words import FOLDER as PANEL
from csproto.errors import CsprotoError
from csproto.shop.orders import CustomerUnknown, OrderSystemDown, database_errors_typed
from csproto.web import schema
from csproto.web.guard import Guard, problem, visitor_language
from csproto.web.health import Health
from csproto.web.limits import Limits, Refused, Slots
from csproto.web.running import Running
from csproto.web.visitors import COOKIE, Visitor, Visitors

logger = logging.getLogger(__name__)

SignIn = Callable[[Request, str | None], str]  # raises SignedOut

STATIC = Path(__file__).parent / "static"
FILES = {
    "chat.js": PANEL / "chat.js",
    "chat.css": PANEL / "chat.css",
    "words.json": PANEL / "words.json",
    **{name: STATIC / name for name in ("page.js", "page.css", "docs.js")},
}
EVENTS = {"triage": "triage", "decision": "part", "done": "turn"}  # SSE event to the part of the step it carries
REFUSALS = {
    "rate": (429, 5),
    "internal": (500, 0),
}  # status and seconds to wait; 503 and 5 for whatever ails the engine or the database
OURS = ("MessageRefused",)  # what is wrong with a message is said with status 200, as the blog's page does


class SignedOut(CsprotoError):
    """Nobody is signed in; a `sign_in` function raises it, and the visitor is told to sign in (401)."""


def demo_sign_in(request: Request, wished: str | None) -> str:
    """Signs every visitor in as the demo customer they choose. A real shop puts its own function here, and ignores the wish."""
    return wished or "C001"


def create_app(
    assistant: Assistant,
    *,
    sign_in: SignIn = demo_sign_in,
    limits: Limits | None = None,
    hosts: Collection[str] | None = ("127.0.0.1", "::1", "localhost", "testserver"),
) -> FastAPI:
    """The page and API over an assistant.

    sign_in: who a visitor is, from the request and the customer they would like to be:
    the one of their chat, if they have one. It is asked on every request that touches a
    chat, never on the event loop, and raises SignedOut when nobody is signed in.
    hosts: names the server answers to; None for any.
    """
    app = FastAPI(title="csproto", description="Customer service on SGLang.", docs_url=None, redoc_url=None)
    desk = Desk(assistant, sign_in, limits or Limits())
    app.state.desk = desk
    app.add_middleware(Guard, limits=desk.limits, hosts=hosts)
    _add_pages(app)
    _add_chat(app, desk)
    _add_session(app, desk)
    _add_health(app, desk)
    _add_errors(app)
    return app


class Desk:
    """What the routes share."""

    def __init__(self, assistant: Assistant, sign_in: SignIn, limits: Limits) -> None:
        self.assistant, self.sign_in, self.limits = assistant, sign_in, limits
        self.visitors, self.slots, self.health = Visitors(limits), Slots(limits.running), Health(assistant)

    def visitor(self, request: Request) -> tuple[str, Visitor | None]:
        """The customer who is signed in now, and their chat if they have one. Raises SignedOut.

        A cookie alone opens no chat: once another customer is signed in, the chat of the
        one before is stopped and gone.
        """
        visitor = self.visitors.find(request.cookies.get(COOKIE))
        customer = self.sign_in(request, visitor.chat.customer_id if visitor else None)
        if visitor and visitor.chat.customer_id != customer:
            self.visitors.remove(visitor)
            visitor = None
        return customer, visitor

    def known(self, request: Request) -> Visitor:
        """Who asks. Raises SignedOut, and Refused(404) for one without a chat."""
        _, visitor = self.visitor(request)
        if visitor is None:
            raise Refused(404, "not_found")
        return visitor

    def admitted(self, request: Request, response_headers: dict[str, str]) -> Visitor:
        """Who asks; somebody new gets a chat and a cookie. Raises SignedOut, CustomerUnknown, OrderSystemDown."""
        customer, visitor = self.visitor(request)
        return visitor or self.begun(customer, request, response_headers)

    def begun(
        self, customer: str, request: Request, response_headers: dict[str, str], before: Visitor | None = None
    ) -> Visitor:
        """A new chat of a signed-in customer, and its cookie; `before` makes room for it.

        A chat never changes hands: a request that has just been let in to one would find
        another customer's. Raises CustomerUnknown.
        """
        chat = ChatSession(self.assistant, customer, reasons=False)
        if before:
            self.visitors.remove(before)
        visitor, cookie = self.visitors.add(chat)
        secure = "; Secure" if request.url.scheme == "https" else ""
        response_headers["Set-Cookie"] = (
            f"{COOKIE}={cookie}; HttpOnly; SameSite=Strict; Path=/; Max-Age={self.limits.session_age:.0f}{secure}"
        )
        return visitor

    def state(self, customer: str, visitor: Visitor | None) -> dict[str, Any]:
        """A customer's chat as the page shows it. Raises OrderSystemDown."""
        customers: list[dict[str, str]] = []
        if self.sign_in is demo_sign_in:
            with database_errors_typed():
                customers = records.customers(self.assistant.orders.engine)
        info = {
            "customer": customer,
            "customers": customers,
            "engine": engine_state(self.assistant),
            "busy": bool(visitor and visitor.chat.running),
        }
        return {"info": info, "messages": visitor.messages() if visitor else []}


def _add_pages(app: FastAPI) -> None:
    """The files, from memory: reading them would take a thread, and all threads may be waiting for the database."""
    files = {name: path.read_bytes() for name, path in FILES.items()}
    page_text, docs_text = ((STATIC / name).read_text(encoding="utf-8") for name in ("page.html", "docs.html"))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(page_text)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_text)

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return Response(files[name], media_type=mimetypes.guess_type(name)[0])


def _add_chat(app: FastAPI, desk: Desk) -> None:
    problems = schema.PROBLEMS | schema.MISSING

    async def begin(request: Request, text: str) -> tuple[Running | None, dict[str, str]]:
        """The answer under way, and the headers of the response; None when there is nothing to answer."""
        if len(text) > settings.MAX_MESSAGE_CHARS:
            raise Refused(413, "too_long")
        headers: dict[str, str] = {}
        if not text.strip():
            await run_in_threadpool(desk.visitor, request)  # signed out, one is told that first
            return None, headers
        visitor = await run_in_threadpool(desk.admitted, request, headers)
        return Running(visitor, text, desk.slots), headers

    @app.post("/api/chat", response_model=schema.Answer, responses=problems)
    async def chat(request: Request, question: schema.Question) -> Response:
        """Answer one message as a whole. An empty one is told what to write."""
        running, headers = await begin(request, question.input)
        if running is None:
            return JSONResponse(problem("empty", request.headers))
        step = await running.last(request)
        return _whole(step, request, headers)

    @app.post(
        "/api/chat/stream",
        response_class=StreamingResponse,
        responses=problems | {200: schema.EVENTS},
    )
    async def stream(request: Request, question: schema.Question) -> Response:
        """Answer one message step by step: events `triage`, `decision`, `token`, and at the end `done` or `error`. `X-Message-Id` names it."""
        running, headers = await begin(request, question.input)
        if running is None:
            return StreamingResponse(
                iter([_event("error", problem("empty", request.headers))]), media_type="text/event-stream"
            )
        headers["X-Message-Id"] = (await running.first())["message"]["id"]
        return StreamingResponse(_events(running, request), media_type="text/event-stream", headers=headers)


def _whole(step: Step | None, request: Request, headers: dict[str, str]) -> Response:
    if step and step["step"] == "done":
        return JSONResponse({"response": step["turn"]["reply"]} | step["turn"], headers=headers)
    if step and step["step"] == "failed":
        code = step["code"]
        if code in OURS:
            return JSONResponse(problem(code, request.headers), headers=headers)
        status, wait = REFUSALS.get(code, (503, 5))
        return JSONResponse(problem(code, request.headers), status, headers | {"Retry-After": str(wait)})
    return JSONResponse(problem("network", request.headers), 503, headers | {"Retry-After": "1"})


async def _events(running: Running, request: Request) -> AsyncIterator[str]:
    async with aclosing(running.steps(request)) as steps:
        async for step in steps:
            name = step["step"]
            if name == "token":
                yield _event(name, {"text": step["text"]})
            elif name in EVENTS:
                yield _event(name, step[EVENTS[name]])
            else:
                yield _event("error", problem(str(step.get("code", name)), request.headers))


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _add_session(app: FastAPI, desk: Desk) -> None:
    known = Annotated[Visitor, Depends(desk.known)]
    problems = schema.PROBLEMS | schema.MISSING

    @app.get("/api/session", response_model=schema.SessionState, responses=schema.PROBLEMS)
    def state(request: Request) -> Any:
        """The visitor's chat; an empty one for somebody new."""
        return desk.state(*desk.visitor(request))

    @app.post("/api/session", response_model=schema.SessionState, responses=problems)
    def new(request: Request, wish: schema.NewChat) -> Response:
        """Begin a new conversation."""
        headers: dict[str, str] = {}
        customer, visitor = desk.visitor(request)
        if wish.customer:
            customer = desk.sign_in(request, wish.customer)
        if visitor is None:
            visitor = desk.begun(customer, request, headers)
        else:
            with visitor.alone(patience=5) as chat:
                if chat.customer_id == customer:
                    chat.renew()
                else:
                    visitor = desk.begun(customer, request, headers, visitor)
        return JSONResponse(desk.state(customer, visitor), headers=headers)

    @app.post("/api/session/stop", response_model=schema.SessionState, responses=problems)
    def stop(request: Request, visitor: known) -> Any:
        """End the answer under way, and return the chat once it has ended."""
        if visitor.stop:
            visitor.stop.set()
        with visitor.alone(patience=5) as chat:
            return desk.state(chat.customer_id, visitor)

    @app.post("/api/session/undo", response_model=schema.TakenBack, responses=problems)
    def undo(request: Request, visitor: known, wish: schema.TakeBack) -> Any:
        """Take the last message back. What it wrote to the order system stays, and a notice in the chat says so."""
        with visitor.alone(patience=5) as chat:
            text = chat.again() if wish.again else chat.undo()
            return desk.state(chat.customer_id, visitor) | {"text": text}

    @app.post("/api/session/rate", response_model=schema.SessionState, responses=problems)
    def rate(request: Request, visitor: known, thumbs: schema.Thumbs) -> Any:
        """Rate one answer."""
        with visitor.alone(patience=5) as chat:
            chat.rate(thumbs.id, thumbs.rating)
            return desk.state(chat.customer_id, visitor)

    @app.get(
        "/api/session/export",
        responses=problems
        | {200: {"content": {kind: {} for kind in FORMATS.values()}, "description": "The chat as a file."}},
    )
    def export(
        request: Request,
        visitor: known,
        form: Literal["json", "markdown"] = "markdown",
        language: Literal["zh", "en"] | None = None,
    ) -> Response:
        """The chat with the reasons for each answer; in the visitor's language unless one is named."""
        text = exported(visitor.chat, form, language or visitor_language(request.headers))
        name = "chat.json" if form == "json" else "chat.md"
        return Response(
            text, media_type=FORMATS[form], headers={"Content-Disposition": f'attachment; filename="{name}"'}
        )


def _add_health(app: FastAPI, desk: Desk) -> None:
    threads = CapacityLimiter(8)  # of its own, for when all others wait for the database

    @app.get(
        "/health",
        response_model=schema.Healthy,
        responses={400: schema.PROBLEMS[400], 503: {"model": schema.Unhealthy}},
    )
    async def health() -> Response:
        """200 only when the engine has just generated a token, and the database has just been written."""
        reason, versions = await run_sync(desk.health.reason, limiter=threads), desk.health.versions()
        if reason:
            return JSONResponse(
                {"status": "unavailable", "reason": reason, "versions": versions}, 503, {"Retry-After": "5"}
            )
        return JSONResponse({"status": "ok", "versions": versions})


def _add_errors(app: FastAPI) -> None:
    """Every error in the shape of an answer; none shows an exception's text."""

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> Response:
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
        return JSONResponse(problem(error.code, request.headers), error.status, headers)

    @app.exception_handler(SignedOut)
    def signed_out(request: Request, error: SignedOut) -> Response:
        return JSONResponse(problem("SignedOut", request.headers), 401)

    @app.exception_handler(OrderSystemDown)
    @app.exception_handler(SQLAlchemyError)  # of a shop's own `sign_in`
    def down(request: Request, error: Exception) -> Response:
        logger.error("%s %s: %s", request.method, request.url.path, str(error).partition("\n")[0])
        return JSONResponse(problem("OrderSystemDown", request.headers), 503, {"Retry-After": "5"})

    @app.exception_handler(CustomerUnknown)
    def unknown(request: Request, error: CustomerUnknown) -> Response:
        return JSONResponse(problem("CustomerUnknown", request.headers), 404)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse(problem("invalid", request.headers), 422)

    @app.exception_handler(MessageUnknown)
    @app.exception_handler(NothingToTakeBack)
    def missing(request: Request, error: Exception) -> Response:
        return JSONResponse(problem("not_found", request.headers), 404)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        code = "invalid" if error.status_code < 500 else "internal"
        return JSONResponse(problem(code, request.headers), error.status_code, error.headers)

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        return JSONResponse(problem("internal", request.headers), 500)
