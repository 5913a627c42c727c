"""The routes for whoever runs the desk: alive, ready, healthy, figures."""

import hmac
from typing import TYPE_CHECKING

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from csproto.web import schema

if TYPE_CHECKING:
    from csproto.web.site import Site

# Probes and Prometheus ask these by an address of the container, which no list of names has.
ANY_HOST = ("/livez", "/readyz", "/metrics")


def add_operating(app: FastAPI, site: "Site", *, versions: bool, metrics_token: str) -> None:
    """Add the routes.

    versions: whether `/health` says which versions run here.
    metrics_token: what Prometheus has to show; without one there are no figures.
    """
    threads = CapacityLimiter(8)  # not the common ones: all may be waiting for the database
    unready: dict[int | str, dict[str, object]] = {503: {"model": schema.Unready}}

    @app.get("/livez", response_model=schema.Alive)
    async def livez() -> Response:
        """Say that the process works. Restart it if there is no answer, and only then."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", response_model=schema.Alive, responses=unready)
    async def readyz() -> Response:
        """Say whether to send customers here.

        503 while the process ends, and if the engine is not ready or the database
        cannot be written. It costs no token.
        """
        reason = "This process ends."
        if not site.answers.closing:
            reason = await run_sync(site.readiness.reason, limiter=threads)
        if reason:
            down = {"status": "unavailable", "reason": reason}
            return JSONResponse(down, 503, {"Retry-After": "5"})
        return JSONResponse({"status": "ok"})

    @app.get(
        "/health",
        response_model=schema.Healthy,
        responses={400: schema.PROBLEMS[400], 503: {"model": schema.Unhealthy}},
    )
    async def health() -> Response:
        """Say 200 only if the engine just generated a token and the database was written."""
        reason = await run_sync(site.health.reason, limiter=threads)
        running = site.health.versions() if versions else {}
        if reason:
            down = {"status": "unavailable", "reason": reason, "versions": running}
            return JSONResponse(down, 503, {"Retry-After": "5"})
        return JSONResponse({"status": "ok", "versions": running})

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        """Give Prometheus its figures."""
        if not metrics_token:
            raise HTTPException(404)
        shown = request.headers.get("authorization", "")
        if not hmac.compare_digest(shown.encode(), f"Bearer {metrics_token}".encode()):
            raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
        text = await run_sync(site.metrics.text, limiter=threads)
        return Response(text, media_type=CONTENT_TYPE_LATEST)
