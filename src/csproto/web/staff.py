"""The page of the shop's staff and its API: what waits, one ticket, take and close.

A token signs the staff in. The page sends it once and gets a signed cookie that names
the member of staff and ends after a working day; programs send it as a bearer token.
"""

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from csproto.chat.engine import shop_of
from csproto.chat.tickets import with_conversations
from csproto.chat.words import interface
from csproto.errors import CsprotoError
from csproto.shop import tickets
from csproto.web import schema
from csproto.web.guard import visitor_language
from csproto.web.limits import Limits, RateLimit
from csproto.web.visitors import Signer

if TYPE_CHECKING:
    from csproto.web.site import Site

COOKIE = "csproto_staff"
SESSION = 8 * 3600  # seconds for which staff stay signed in: a working day
TRIES = 5  # wrong tokens of one address at once, and then a minute
STATIC = Path(__file__).parent / "static"
WORDS = json.loads(Path(__file__).with_name("staff.json").read_text(encoding="utf-8"))


class StaffUnknown(CsprotoError):
    """The token is wrong or missing. code: which of the two, and what to do."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class StaffDoor:
    """Says who of the staff a request is from. Used on the event loop only.

    The cookies' key comes from the token: they hold in every process of the page, and
    another token ends them all.
    """

    def __init__(self, token: str, limits: Limits) -> None:
        self._token = token.encode()
        self._signer = Signer([hmac.digest(self._token, b"cookies of the staff", hashlib.sha256)])
        self._tries = RateLimit(replace(limits, burst=TRIES, per_minute=TRIES))

    def check(self, token: str, request: Request) -> None:
        """Raise StaffUnknown for a wrong token, and Refused(429) after too many of them.

        After too many, even the right one is refused: else guessing could go on.
        """
        address = request.client.host if request.client else ""
        self._tries.spend(address, cost=0)
        if not hmac.compare_digest(token.encode(), self._token):
            self._tries.spend(address)
            raise StaffUnknown("wrong_token")

    def cookie(self, name: str) -> str:
        """Return the cookie of a member of staff who has shown the token."""
        known = json.dumps([name, time.time() + SESSION])
        return self._signer.sign(urlsafe_b64encode(known.encode()).decode())

    async def __call__(self, request: Request) -> str:
        """Return the name in the cookie; empty for a program with the token.

        Raises StaffUnknown and Refused.
        """
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            self.check(token, request)
            return ""
        if known := self._signer.read(request.cookies.get(COOKIE)):
            name, until = json.loads(urlsafe_b64decode(known))
            if time.time() < until:
                return str(name)
        raise StaffUnknown("staff_signed_out")


def add_staff(app: FastAPI, site: "Site", token: str) -> None:
    """Add the page and its API. token: signs the staff in."""
    door = StaffDoor(token, site.limits)
    app.include_router(_pages(site))
    app.include_router(_sign_in(site, door))
    app.include_router(_tickets(site, door))
    _add_errors(app)


def _pages(site: "Site") -> APIRouter:
    """Return the routes of the files. Nothing in them is secret."""
    router = APIRouter(include_in_schema=False)
    page = (STATIC / "staff.html").read_text(encoding="utf-8")
    shared = interface(site.assistant.handbook)
    words = {language: shared[language] | own for language, own in WORDS.items()}

    @router.get("/staff")
    async def staff() -> Response:
        return HTMLResponse(page)

    @router.get("/staff/words.json")
    async def staff_words() -> Response:
        return JSONResponse(words)

    return router


def _sign_in(site: "Site", door: StaffDoor) -> APIRouter:
    router = APIRouter(prefix="/api/staff", include_in_schema=False)

    @router.post("/session")
    async def sign_in(request: Request, asked: schema.StaffSignIn) -> Response:
        """Sign in with the token and a name; the cookie that comes back has only the name."""
        door.check(asked.token, request)
        answer = JSONResponse({"by": asked.by.strip()})
        answer.set_cookie(
            COOKIE,
            door.cookie(asked.by.strip()),
            max_age=SESSION,
            path=router.prefix,
            secure=site.secure or request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    @router.post("/session/end")
    async def sign_out() -> Response:
        answer = JSONResponse({"by": ""})
        answer.delete_cookie(COOKIE, path=router.prefix, httponly=True, samesite="strict")
        return answer

    return router


def _tickets(site: "Site", door: StaffDoor) -> APIRouter:
    router = APIRouter(prefix="/api/staff", include_in_schema=False)
    engine, handbook = shop_of(site.assistant).engine, site.assistant.handbook
    signed_in = Annotated[str, Depends(door)]

    @router.get("/tickets")
    def waiting(name: signed_in) -> Any:
        """Return who is signed in, and what waits: urgent first, then the newest."""
        return {"by": name, "tickets": [tickets.as_dict(t) for t in tickets.waiting(engine)]}

    @router.get("/tickets/{number}")
    def one(name: signed_in, number: int) -> Any:
        """Return one ticket with its customer, its order and its conversations."""
        return with_conversations(engine, tickets.find(engine, number), handbook)

    @router.post("/tickets/{number}/take")
    def take(name: signed_in, number: int, work: schema.StaffWork) -> Any:
        """Take a ticket. `by` names who does, unless the cookie does."""
        now = site.assistant.clock()
        return tickets.as_dict(tickets.take(engine, number, name or work.by, now))

    @router.post("/tickets/{number}/close")
    def close(name: signed_in, number: int, work: schema.StaffClose) -> Any:
        """Close a ticket, with a note that customers never see."""
        now, by = site.assistant.clock(), name or work.by
        return tickets.as_dict(tickets.close(engine, number, by, now, work.note))

    return router


def _add_errors(app: FastAPI) -> None:
    def told(request: Request, code: str, status: int, **details: str) -> Response:
        words = WORDS[visitor_language(request.headers)]["staff_errors"][code].format(**details)
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
        return JSONResponse({"response": words, "error": code}, status, headers)

    @app.exception_handler(StaffUnknown)
    def signed_out(request: Request, error: StaffUnknown) -> Response:
        return told(request, error.code, 401)

    @app.exception_handler(tickets.TicketUnknown)
    def unknown(request: Request, error: Exception) -> Response:
        return told(request, "TicketUnknown", 404)

    @app.exception_handler(tickets.StaffWordsInvalid)
    def invalid(request: Request, error: Exception) -> Response:
        return told(request, "StaffWordsInvalid", 422)

    @app.exception_handler(tickets.TicketGone)
    def gone(request: Request, error: tickets.TicketGone) -> Response:
        by = error.by or "—"  # the customer, by withdrawing it
        return told(request, type(error).__name__, 409, number=tickets.label(error.number), by=by)
