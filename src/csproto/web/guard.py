"""Checks every request before the application sees it, and adds headers to every response.

It is plain ASGI, because Starlette's own middleware class would hold streams up.
"""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from csproto.chat.words import plain
from csproto.logs import REQUEST
from csproto.web.limits import Limits, RateLimit, Refused
from csproto.web.metrics import Metrics
from csproto.web.operating import ANY_HOST
from csproto.web.rates import SharedRates

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
LOOKS = ("GET", "HEAD", "OPTIONS")
REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")  # req-0001-ab is one; "a\nb" and "1" are none
RATE_THREADS = 8  # that ask the database for rates; all others may be waiting for it
logger = logging.getLogger(__name__)


class Guard:
    """Checks host, origin, content type, rate and size; adds the security headers.

    hosts: the names under which the server may be asked; None for any. Another name is
        an attempt to reach a server on this machine by DNS rebinding.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        hosts: Collection[str] | None,
        metrics: Metrics,
        rates: SharedRates | None = None,
    ) -> None:
        self.app, self.limits, self.hosts, self.metrics = app, limits, hosts, metrics
        self.rates, self._threads = rates, CapacityLimiter(RATE_THREADS)
        self.rate, self.look_rate = RateLimit(limits), RateLimit(limits, limits.looks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, began, status = Headers(scope=scope), time.monotonic(), 0
        asked = headers.get("x-request-id", "")
        number = asked if REQUEST_ID.fullmatch(asked) else secrets.token_hex(8)
        REQUEST.set(number)
        method = scope["method"]
        if method == "HEAD":  # answered like a GET, without the body
            scope = {**scope, "method": "GET"}

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS | {"X-Request-Id": number})
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._check(scope, headers)
            body = None if method in LOOKS else await self._body_in_time(receive)
            inner = receive if body is None else _replayed(body, receive)
        except Refused as refusal:
            self.metrics.count_refusal(refusal.status, refusal.code)
            await send_refusal(refusal, scope, send_guarded)
        else:
            await self.app(scope, inner, send_guarded)
        finally:
            if method not in LOOKS or status >= 500:
                # Not the path as it was sent: it can have anything in it.
                path = getattr(scope.get("route"), "path", "(no route)")
                took = (time.monotonic() - began) * 1000
                logger.info("%s %s: %d in %.0f ms", method, path, status, took)

    async def _check(self, scope: Scope, headers: Headers) -> None:
        path, client = scope["path"], scope.get("client")
        address = client[0] if client else ""
        foreign = self.hosts is not None and _host_name(headers.get("host", "")) not in self.hosts
        if foreign and path not in ANY_HOST:
            raise Refused(400, "foreign")
        if scope["method"] in LOOKS:
            if path.startswith("/api/"):  # these cost something
                await self._spend(self.look_rate, "look", address)
            elif path.startswith(("/health", "/readyz", "/metrics")):
                self.look_rate.spend(address)  # they have to answer without a database, too
            return
        self._check_origin(headers)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # A form of another site can send anything but JSON without a preflight request.
            raise Refused(415, "invalid")
        if (length := headers.get("content-length", "")).isdigit() and int(
            length
        ) > self.limits.body:
            raise Refused(413, "too_large")
        await self._spend(self.rate, "post", address)

    async def _spend(self, rate: RateLimit, kind: str, address: str) -> None:
        """Take a token, over all processes if they share a database that answers.

        Raises Refused(429) if there is none.
        """
        wait = None
        if self.rates:
            name = f"{kind} {address}"
            wait = await run_sync(
                self.rates.spend, name, rate.most, rate.per_second, limiter=self._threads
            )
        if wait is None:
            rate.spend(address)
        elif wait:
            raise Refused(429, "rate", retry_after=int(wait) + 1)

    def _check_origin(self, headers: Headers) -> None:
        """Raise Refused(403) if a browser says that another site sent the request.

        Programs say nothing, and have no cookie that was not given to them.
        """
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        foreign = origin and origin.partition("://")[2] != headers.get("host")
        if foreign or site in ("cross-site", "same-site"):
            raise Refused(403, "foreign")

    async def _body_in_time(self, receive: Receive) -> bytes:
        """Return the whole body. Raises Refused(408) if it is not sent in time."""
        try:
            return await asyncio.wait_for(self._body(receive), self.limits.body_seconds)
        except TimeoutError as error:
            raise Refused(408, "network") from error

    async def _body(self, receive: Receive) -> bytes:
        """Return the whole body.

        Raises Refused(413) as soon as it is too large, whatever length was announced.
        """
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limits.body:
                raise Refused(413, "too_large")
        return body


def _host_name(host: str) -> str | None:
    """Return the name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, and then the later messages."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def send_refusal(refusal: Refused, scope: Scope, send: Send) -> None:
    """Send a refusal in the form of every answer."""
    headers = [(b"content-type", b"application/json")]
    if refusal.retry_after:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    body = json.dumps(problem(refusal.code, Headers(scope=scope))).encode()
    await send({"type": "http.response.body", "body": body})


def problem(code: str, headers: Headers) -> dict[str, Any]:
    """Return the body of an error: what to do, in the visitor's language, and a code.

    It never has an exception's text.
    """
    return {"response": plain(code, visitor_language(headers)), "error": code}


def visitor_language(headers: Headers) -> str:
    """Return `en` if the browser prefers another language than Chinese, else `zh`.

    Programs that name no language get Chinese, like the blog's.
    """
    accepted = headers.get("accept-language", "zh")
    return "zh" if accepted.lower().startswith(("zh", "*")) else "en"
