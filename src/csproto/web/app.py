"""The web application: the page, the JSON API, and a chat for each visitor."""

import json
import logging
import mimetypes
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from csproto import settings
from csproto.chat.export import FORMATS, exported
from csproto.chat.messages import Step
from csproto.chat.words import FOLDER as PANEL
from csproto.chat.words import front_end, interface
from csproto.desk.assistant import Assistant
from csproto.web import schema
from csproto.web.account import add_account
from csproto.web.errors import add_errors, failure
from csproto.web.examples import add_examples
from csproto.web.guard import Guard, problem, visitor_language
from csproto.web.limits import Limits, Refused
from csproto.web.operating import add_operating
from csproto.web.running import Running
from csproto.web.site import SignIn, Site, demo_sign_in
from csproto.web.staff import add_staff
from csproto.web.visitors import Signer, Visitor

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
PAGE_FILES = ("page.js", "page.css", "docs.js", "staff.js", "staff.css")
FILES = {
    "chat.css": PANEL / "chat.css",
    **{name: STATIC / name for name in PAGE_FILES},
}


def create_app(
    assistant: Assistant,
    *,
    sign_in: SignIn = demo_sign_in,
    limits: Limits | None = None,
    hosts: Collection[str] | None = ("127.0.0.1", "::1", "localhost", "testserver"),
    secure: bool = False,
    public_docs: bool = True,
    metrics_token: str = "",
    staff_token: str = "",
    cookie_secrets: Sequence[str] = (),
) -> FastAPI:
    """Make the page and its API for a desk.

    sign_in: returns who the visitor is. It gets the request and the customer whom the
        visitor would like to be, which is the one of their chat if they have one. It is
        called for every request that touches a chat, never on the event loop, and
        raises SignedOut if nobody is signed in.
    hosts: the names that the server answers to; None for any.
    secure: whether cookies are for HTTPS only. They are anyway if the request came by it.
    public_docs: whether everybody can read `/docs` and the versions that run here.
    metrics_token: shows Prometheus the figures; without one there is no `/metrics`.
    staff_token: signs the shop's staff in; without one there is no `/staff`.
    cookie_secrets: the first signs the cookies, and all are accepted. Without one, no
        other process can read this one's cookies.

    On PostgreSQL, visitors, rates and locks are in the database, so that several
    processes can serve the same customers. On SQLite they are in this process.
    """
    app = FastAPI(
        title="csproto",
        description="Customer service on SGLang.",
        openapi_url="/openapi.json" if public_docs else None,
        docs_url=None,
        redoc_url=None,
    )
    site = Site(
        assistant,
        sign_in,
        limits or Limits(),
        secure,
        Signer([secret.encode() for secret in cookie_secrets]),
    )
    app.state.site = site
    app.add_middleware(
        Guard, limits=site.limits, hosts=hosts, metrics=site.metrics, rates=site.rates
    )
    _add_pages(app, site, public_docs)
    _add_chat(app, site)
    _add_session(app, site)
    add_account(app, site, is_demo=sign_in is demo_sign_in)
    if staff_token:
        add_staff(app, site, staff_token)
    add_operating(app, site, versions=public_docs, metrics_token=metrics_token)
    add_errors(app)
    add_examples(app)
    return app


def _add_pages(app: FastAPI, site: Site, public_docs: bool) -> None:
    """Add the files.

    They are kept in memory: reading them would take a thread, and all threads may be
    waiting for the database.
    """
    files = {name: path.read_bytes() for name, path in FILES.items()}
    files["chat.js"] = front_end().encode()
    words = interface(site.assistant.handbook)
    files["words.json"] = json.dumps(words, ensure_ascii=False).encode()
    page_text, docs_text = (
        (STATIC / name).read_text(encoding="utf-8") for name in ("page.html", "docs.html")
    )

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(page_text)

    async def docs() -> Response:
        return HTMLResponse(docs_text)

    if public_docs:
        app.get("/docs", include_in_schema=False)(docs)

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return Response(files[name], media_type=mimetypes.guess_type(name)[0])


def _add_chat(app: FastAPI, site: Site) -> None:
    problems = schema.PROBLEMS | schema.MISSING

    async def begin(
        request: Request, question: schema.Question
    ) -> tuple[Running | None, dict[str, str]]:
        """Return the answer under way and the headers of the response.

        There is no answer to an empty message.
        """
        text = question.input
        if len(text) > settings.MAX_MESSAGE_CHARS:
            raise Refused(413, "too_long")
        headers: dict[str, str] = {}
        if not text.strip():
            await run_in_threadpool(site.visitor, request)  # raises SignedOut
            return None, headers
        visitor = await run_in_threadpool(site.admitted, request, headers)
        return await site.answers.begin(visitor, text, question.id), headers

    @app.post("/api/chat", response_model=schema.Answer, responses=problems)
    async def chat(request: Request, question: schema.Question) -> Response:
        """Answer one message. An empty one is told what to write."""
        running, headers = await begin(request, question)
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
        """Answer one message as events.

        `waiting` has the place in the queue while too many are answered at once,
        `triage` has what was understood, `decision` comes once for each decision,
        `token` has the reply, and the last one is `done` with the whole answer, or
        `error`. The header `X-Message-Id` names the message, unless it has to wait.
        """
        running, headers = await begin(request, question)
        if running is None:
            told = _event("error", problem("empty", request.headers))
            return StreamingResponse(iter([told]), media_type="text/event-stream")
        if running.has_begun:
            headers["X-Message-Id"] = (await running.first())["message"]["id"]
        events = _events(running, request)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def _whole(step: Step | None, request: Request, headers: dict[str, str]) -> Response:
    """Return the response for the last step of an answer."""
    if step and step["step"] == "done":
        return JSONResponse({"response": step["turn"]["reply"]} | step["turn"], headers=headers)
    if step and step["step"] == "failed":
        return failure(step["code"], request.headers, headers)
    return failure("network", request.headers, headers)


async def _events(running: Running, request: Request) -> AsyncIterator[str]:
    """Yield the steps of an answer as server-sent events."""
    async with aclosing(running.steps(request)) as steps:
        async for step in steps:
            match step:
                case {"step": "triage", "triage": triage}:
                    sure = {"sure": step["sure"], "runner_up": step["runner_up"]}
                    yield _event("triage", triage | sure)
                case {"step": "decision", "decision": decision}:
                    yield _event("decision", decision)
                case {"step": "token", "text": text}:
                    yield _event("token", {"text": text})
                case {"step": "waiting", "place": place}:
                    yield _event("waiting", {"place": place})
                case {"step": "start"}:
                    pass
                case {"step": "done", "turn": turn}:
                    yield _event("done", turn)
                case _:
                    code = str(step.get("code", step["step"]))
                    yield _event("error", problem(code, request.headers))


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _add_session(app: FastAPI, site: Site) -> None:
    known = Annotated[Visitor, Depends(site.known)]
    problems = schema.PROBLEMS | schema.MISSING

    @app.get("/api/session", response_model=schema.SessionState, responses=problems)
    def state(request: Request) -> Any:
        """Return the visitor's chat; an empty one for a new visitor."""
        customer, visitor = site.visitor(request)
        if visitor:
            site.drop_if_erased(visitor)
        return site.state(customer, visitor)

    @app.post("/api/session", response_model=schema.SessionState, responses=problems)
    def new(request: Request, wish: schema.NewChat) -> Response:
        """Begin a new conversation, or take up an earlier one again."""
        headers: dict[str, str] = {}
        customer, visitor = site.visitor(request)
        if wish.customer:
            customer = site.sign_in(request, wish.customer)
        if visitor is None:
            visitor = site.begin(customer, request, headers, conversation=wish.conversation)
        else:
            with visitor.alone(patience=5) as chat:
                if chat.customer_id == customer and not wish.conversation:
                    chat.renew()
                else:
                    visitor = site.begin(
                        customer,
                        request,
                        headers,
                        before=visitor,
                        conversation=wish.conversation,
                    )
        return JSONResponse(site.state(customer, visitor), headers=headers)

    @app.post("/api/session/stop", response_model=schema.SessionState, responses=problems)
    def stop(request: Request, visitor: known) -> Any:
        """End the answer under way, and return the chat once it has ended.

        An answer that has begun to write is completed.
        """
        visitor.ask_to_stop()
        with visitor.alone(patience=5) as chat:
            return site.state(chat.customer_id, visitor)

    @app.post("/api/session/rate", response_model=schema.SessionState, responses=problems)
    def rate(request: Request, visitor: known, thumbs: schema.Thumbs) -> Any:
        """Rate one answer."""
        with visitor.alone(patience=5) as chat:
            chat.rate(thumbs.id, thumbs.rating, thumbs.why)
            return site.state(chat.customer_id, visitor)

    file = {
        "content": {kind: {} for kind in FORMATS.values()},
        "description": "The chat as a file.",
    }

    @app.get("/api/session/export", responses=problems | {200: file})
    def export(
        request: Request,
        visitor: known,
        form: Literal["json", "markdown"] = "markdown",
        language: Literal["zh", "en"] | None = None,
    ) -> Response:
        """Return the chat with the reasons for each answer.

        It is in the visitor's language unless another one is named.
        """
        text = exported(visitor.chat, form, language or visitor_language(request.headers))
        name = "chat.json" if form == "json" else "chat.md"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(text, media_type=FORMATS[form], headers=headers)
