"""The application: its routes, and how it tells what went wrong, to people as a page and to programs as JSON."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline import __version__
from pipeline.errors import PagepackError, UsageError
from pipeline.settings import Settings
from pipeline.web import api, batches, charts, failures, images, pages, review, search, sql_box
from pipeline.web.guard import API, Guard, Keys
from pipeline.web.render import render
from pipeline.web.request_site import make_site
from pipeline.web.v1 import adding, reading

log = logging.getLogger("pagepack.web")


def create_app(
    settings: Settings,
    *,
    token: str | None = None,
    allow_retry: bool = False,
    allow_upload: bool = False,
    read_from: Sequence[Path] = (),
    allow_review: bool = False,
) -> ASGIApp:
    """The application as a server runs it; whoever has a token must send it, as `guard.py` says.

    Raises:
        UsageError: no database yet, or one of another version; no folder to read from. Unavailable: the server does not
        answer.
    """
    site = make_site(settings, token, allow_retry, allow_review)
    app = FastAPI(
        title="pagepack",
        version=__version__,
        docs_url=None,  # these pages would fetch their scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.site = site
    app.state.additions = adding.make_additions(settings, allow_upload, read_from)
    app.mount("/static", _Static(directory=Path(__file__).parent / "static"), name="static")
    for routes in (api, reading, adding):
        app.include_router(routes.router)
    for part in (batches, charts, failures, pages, images, review, search, sql_box):
        app.include_router(part.router, include_in_schema=False)
    app.add_exception_handler(PagepackError, _refused)
    app.add_exception_handler(HTTPException, _no_page)
    app.add_exception_handler(RequestValidationError, _misfit)
    app.add_exception_handler(Exception, _fault)
    return _Guarded(app, site.keys)


class _Static(StaticFiles):
    def file_response(self, *arguments: object, **given: object) -> Response:
        response = super().file_response(*arguments, **given)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"  # asked again, and mostly answered that nothing changed
        return response


class _Guarded(Guard):
    def __init__(self, app: FastAPI, keys: Keys | None) -> None:
        super().__init__(app, keys, _refusing(app))
        self.routes = app.routes
        self.openapi = app.openapi
        self.site = app.state.site


def _refusing(app: FastAPI) -> ASGIApp:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app
        status, title, words = scope["refusal"]
        await _told(Request(scope, receive), status, title, words)(scope, receive, send)

    return refuse


def _told(request: Request, status: int, title: str, words: str) -> Response:
    if request.url.path.startswith(API):
        return JSONResponse({"error": title, "detail": words}, status)
    return render(request, "error.html", status=status, title=title, words=words)


async def _refused(request: Request, error: Exception) -> Response:
    """An error that was raised on purpose; a message of ours says the way out."""
    if isinstance(error, UsageError):
        return _told(request, 400, "This cannot be shown", str(error))
    log.warning("%s: %s", request.url.path, error)
    return _told(request, 503, "Not now", str(error))


async def _no_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = "Nothing here" if error.status_code == 404 else "This cannot be done"
    words = "No page has this address." if error.detail == "Not Found" else str(error.detail)  # the router's own words
    response = _told(request, error.status_code, title, words)
    response.headers.update(error.headers or {})
    return response


async def _misfit(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    parts = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
    return _told(request, 422, "This cannot be shown", "; ".join(parts))


async def _fault(request: Request, error: Exception) -> Response:
    """What nobody foresaw; Starlette logs the traceback."""
    return _told(request, 500, "A fault of the program", "The log of `pagepack serve` says where.")
