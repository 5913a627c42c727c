"""Errors of the web application: each in the form of an answer, none with an exception's text."""

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Match

from csproto.chat.session import MessageUnknown
from csproto.desk.conversation import ConversationUnknown
from csproto.errors import CsprotoError
from csproto.shop.demo import NotTheDemo
from csproto.shop.orders import CustomerUnknown, OrderSystemDown
from csproto.web.guard import problem, visitor_language
from csproto.web.limits import Refused

logger = logging.getLogger(__name__)

# HTTP status and seconds to wait; it is 503 and 5 if engine or database cannot answer.
# What is wrong with a message is said with status 200, as the blog's page does.
STATUS = {"MessageRefused": (200, 0), "rate": (429, 5), "internal": (500, 0), "network": (503, 1)}


# For programmers, so they are not among the words of the chat.
WORDS = {
    "unknown_field": {
        "zh": "没有字段“{got}”。您是不是想写“{near}”？",
        "en": "There is no field `{got}`. Did you mean `{near}`?",
    },
    "no_such_address": {
        "zh": "没有这个地址。请核对路径。",
        "en": "There is nothing at this address. Check the path.",
    },
    "wrong_method": {
        "zh": "这个地址只接受：{allowed}。",
        "en": "This address takes only {allowed}.",
    },
}


class SignedOut(CsprotoError):
    """Nobody is signed in. A `sign_in` function raises it, and the visitor gets a 401."""


def failure(code: str, asked: Headers, headers: dict[str, str]) -> Response:
    """Return the response to a request whose answer failed.

    code: what failed, as a step of the chat names it.
    asked: the headers of the request, for the language.
    headers: those of the response.
    """
    status, wait = STATUS.get(code, (503, 5))
    if status >= 400:
        headers = headers | {"Retry-After": str(wait)}
    return JSONResponse(problem(code, asked), status, headers)


def _told(code: str, asked: Headers, **details: str) -> dict[str, str]:
    """Return the body of an error that a program's author can mend."""
    return {"response": WORDS[code][visitor_language(asked)].format(**details), "error": code}


def _methods(request: Request) -> str:
    """Return the methods of an address, as the `Allow` header names them."""
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches({**request.scope, "method": "GET"})[0] is not Match.NONE:
            methods |= route.methods or set()
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def add_errors(app: FastAPI) -> None:
    """Add the handlers of everything that can be raised outside an answer."""

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> Response:
        request.app.state.site.metrics.count_refusal(error.status, error.code)
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
        return JSONResponse(problem(error.code, request.headers), error.status, headers)

    @app.exception_handler(SignedOut)
    def signed_out(request: Request, error: SignedOut) -> Response:
        return JSONResponse(problem("SignedOut", request.headers), 401)

    @app.exception_handler(OrderSystemDown)
    @app.exception_handler(SQLAlchemyError)  # of a shop's own `sign_in`
    def down(request: Request, error: Exception) -> Response:
        first_line = str(error).partition("\n")[0]
        logger.error("%s %s: %s", request.method, request.url.path, first_line)
        told = problem("OrderSystemDown", request.headers)
        return JSONResponse(told, 503, {"Retry-After": "5"})

    @app.exception_handler(CustomerUnknown)
    @app.exception_handler(ConversationUnknown)
    def unknown(request: Request, error: Exception) -> Response:
        return JSONResponse(problem(type(error).__name__, request.headers), 404)

    @app.exception_handler(NotTheDemo)
    def not_the_demo(request: Request, error: NotTheDemo) -> Response:
        return JSONResponse(problem("NotTheDemo", request.headers), 409)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        told = problem("invalid", request.headers)
        for found in error.errors():
            if found["type"] == "unknown_field":
                told = _told("unknown_field", request.headers, **found["ctx"])
        return JSONResponse(told, 422)

    @app.exception_handler(MessageUnknown)
    def missing(request: Request, error: Exception) -> Response:
        return JSONResponse(problem("not_found", request.headers), 404)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = allowed = _methods(request)
            told = _told("wrong_method", request.headers, allowed=allowed)
        elif error.status_code == 404:
            told = _told("no_such_address", request.headers)
        else:
            code = "invalid" if error.status_code < 500 else "internal"
            told = problem(code, request.headers)
        return JSONResponse(told, error.status_code, headers)

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        return JSONResponse(problem("internal", request.headers), 500)
