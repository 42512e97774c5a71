"""What every request needs, made once when the server starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from pipeline.blobs.page_images import ImageStore, open_images
from pipeline.database.looking import Looking
from pipeline.database.open_to_look import open_to_look
from pipeline.settings import Settings
from pipeline.web.gathered import Gathered
from pipeline.web.guard import Keys
from pipeline.web.under_way import UnderWay

_SAME_SECONDS = 1.0  # a look costs 3 ms, a page asks several times


@dataclass(frozen=True)
class Site:
    """`keys` is None where nobody is asked for a token. `allow_retry`: whether failures may be sent back to waiting;
    `allow_review`: whether pages may be marked as seen."""

    name: str  # of the database, without a password
    settings: Settings
    images: ImageStore
    keys: Keys | None
    allow_retry: bool
    allow_review: bool
    gathered: Gathered = field(default_factory=Gathered)
    searches: UnderWay = field(default_factory=UnderWay)
    _server: Looking | None = None
    _file: list[tuple[float, Looking]] = field(default_factory=list)  # when it was looked at, and the file

    @property
    def db(self) -> Looking:
        """A SQLite file is looked at anew each second, for it may be migrated, or be another one, meanwhile."""
        if self._server is not None:
            return self._server
        now = time.monotonic()
        if not self._file or now - self._file[0][0] > _SAME_SECONDS:
            self._file[:] = [(now, open_to_look(self.settings))]
        return self._file[0][1]


def make_site(settings: Settings, token: str | None, allow_retry: bool, allow_review: bool) -> Site:
    """Looks into the database once, so that a server does not start on one that it cannot read.

    Raises:
        UsageError: no database yet, or one of another version. Unavailable: the server does not answer.
    """
    db = open_to_look(settings)
    server = db if settings.database_url is not None else None  # it keeps connections
    keys = None if token is None else Keys(token)
    return Site(db.name, settings, open_images(settings), keys, allow_retry, allow_review, _server=server)


def _site_of(request: Request) -> Site:
    site = request.app.state.site
    assert isinstance(site, Site)
    return site


TheSite = Annotated[Site, Depends(_site_of)]
"""The type of a route's parameter that is given the site."""
