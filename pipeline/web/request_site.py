"""What every request needs, made once when the server starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from pipeline.blobs.page_images import ImageStore, open_images
from pipeline.database.looking import Looking
from pipeline.database.open_to_look import open_to_look
from pipeline.settings import Settings
from pipeline.web.gathered import Gathered
from pipeline.web.guard import Keys


@dataclass(frozen=True)
class Site:
    """`keys` is None where nobody is asked for a token. `allow_retry`: whether failures may be sent back to waiting."""

    settings: Settings
    images: ImageStore
    keys: Keys | None
    allow_retry: bool
    gathered: Gathered = field(default_factory=Gathered)

    @property
    def db(self) -> Looking:
        """Opened anew for each request, which costs a SQLite file a millisecond: it may be migrated meanwhile."""
        return self._server if self._server is not None else open_to_look(self.settings)

    _server: Looking | None = None


def make_site(settings: Settings, token: str | None, allow_retry: bool) -> Site:
    """Looks into the database once, so that a server does not start on one that it cannot read.

    Raises:
        UsageError: no database yet, or one of another version. Unavailable: the server does not answer.
    """
    db = open_to_look(settings)
    server = db if settings.database_url is not None else None  # it keeps connections
    keys = None if token is None else Keys(token)
    return Site(settings, open_images(settings), keys, allow_retry, _server=server)


def _site_of(request: Request) -> Site:
    site = request.app.state.site
    assert isinstance(site, Site)
    return site


TheSite = Annotated[Site, Depends(_site_of)]
"""The type of a route's parameter that is given the site."""
