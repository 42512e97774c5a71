"""Templates into pages. Every value is escaped where it is put: texts and names of documents are data."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from fastapi import Request
from markupsafe import Markup
from starlette.responses import HTMLResponse

from pipeline import __version__
from pipeline.database.looking import as_moment
from pipeline.query.word_diff import Change

_PARTS = (
    ("/", "Batches"),
    ("/search", "Search"),
    ("/review", "Review"),
    ("/charts", "Charts"),
    ("/sql", "SQL"),
)


def render(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page. `site` is there in every template, and the path for the navigation."""
    text = (
        _templates()
        .get_template(template)
        .render(site=request.app.state.site, here=request.url.path, version=__version__, parts=_PARTS, **values)
    )
    return HTMLResponse(text, status)


@cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,  # a program that is upgraded below a server keeps the templates that its code knows
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "number": _number,
        "moment": _moment,
        "part": _part,
        "plain": plain,
        "duration": _duration,
        "as_moment": as_moment,
    }
    templates.globals |= {"address": address, "left_out": Change.LEFT_OUT}
    return templates


def address(*parts: object, **query: object) -> str:
    """A path of ours: each part and value percent-encoded; a value that is None or "" is left out."""
    path = "/" + "/".join(quote(str(part), safe="") for part in parts)
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return path + (f"?{urlencode(given)}" if given else "")


def plain(text: str) -> str:
    """One line, with nothing in it that changes how what stands around it reads: no control or direction marks."""
    return "".join(character if character.isprintable() else " " for character in text)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _part(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}" if value < 0.995 or value >= 1 else f"{value:.1%}"


def _moment(value: datetime | None) -> Markup:
    """UTC, to the minute, with the whole of it for programs."""
    if value is None:
        return Markup("–")
    words = f"{value:%Y-%m-%d %H:%M}"
    return Markup('<time datetime="{}">{}</time>').format(value.isoformat(), words)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    return f"{minutes} min" if minutes < 120 else f"{hours} h" if hours < 72 else f"{round(seconds / 86400)} days"
