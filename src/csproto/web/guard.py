"""Checks every request before the application sees it, and adds headers to every response.

It is plain ASGI, because Starlette's own middleware class would hold streams up.
"""

import json
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from csproto.chat.words import plain
from csproto.web.limits import Limits, RateLimit, Refused

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


class Guard:
    """Checks host, origin, content type, rate and size; adds the security headers.

    hosts: the names under which the server may be asked; None for any. Another name is
        an attempt to reach a server on this machine by DNS rebinding.
    """

    def __init__(self, app: ASGIApp, limits: Limits, hosts: Collection[str] | None) -> None:
        self.app, self.limits, self.hosts = app, limits, hosts
        self.rate = RateLimit(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            self._check(scope, Headers(scope=scope))
            body = None if scope["method"] in ("GET", "HEAD") else await self._body(receive)
        except Refused as refusal:
            await send_refusal(refusal, scope, send_guarded)
            return
        await self.app(scope, receive if body is None else _replayed(body, receive), send_guarded)

    def _check(self, scope: Scope, headers: Headers) -> None:
        if self.hosts is not None and _host_name(headers.get("host", "")) not in self.hosts:
            raise Refused(400, "foreign")
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
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
        client = scope.get("client")
        self.rate.spend(client[0] if client else "")

    def _check_origin(self, headers: Headers) -> None:
        """Raise Refused(403) if a browser says that another site sent the request.

        Programs say nothing, and have no cookie that was not given to them.
        """
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        foreign = origin and origin.partition("://")[2] != headers.get("host")
        if foreign or site in ("cross-site", "same-site"):
            raise Refused(403, "foreign")

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
