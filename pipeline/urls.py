"""URLs as users write them: of storages (`s3://…`, `file://…`) and of PostgreSQL servers."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from pipeline.errors import UsageError, redacted

if TYPE_CHECKING:
    import sqlalchemy as sa  # half a second of processor time, which most URLs do not need

IN_PATH = "!/"
"""Between a container and its member in the path that people see: letters.zip!/04.tif."""

_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")


def server_url(url: str) -> sa.URL:
    """The URL as SQLAlchemy and psycopg read it; `server_url(url).query` goes to libpq (sslmode, …).

    Raises:
        ValueError: it is none of PostgreSQL's; the message does not repeat it, for it may hold a password.
    """
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError

    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError("not a URL like postgresql://user:password@host:5432/database")
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):  # their words may hold the password
        raise ValueError(
            "not a URL like postgresql://user:password@host:5432/database; write / : @ # ? % in a password as %2F %3A…"
        ) from None
    return parsed.set(drivername="postgresql+psycopg")


def server_name(url: sa.URL) -> str:
    """`postgresql://user@host:5432/database`: for messages."""
    host = url.host or url.query.get("host") or ""
    user = f"{url.username}@" if url.username else ""
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{user}{host}{port}/{url.database or ''}"


URL_PATTERN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:([^/@]*:[^@]*)@)?(.*)", re.DOTALL)


def is_url(text: str) -> bool:
    """`s3://bucket` and `file:///folder` are URLs; what has no `://` is a path."""
    return URL_PATTERN.match(text) is not None


def secrets_masked(url: str) -> str:
    """A URL to be shown whole: before its last `@` no more than the user of `user:password`.

    `errors.redacted` finds URLs within sentences, and lets pass what may be a port, or a user alone.
    """
    scheme, separator, rest = url.partition("://")
    before, at, host = rest.rpartition("@")
    if separator and at:
        user, colon, _ = before.partition(":")
        url = f"{scheme}://{user if colon else ''}{colon}***@{host}"
    return redacted(url)


def has_credentials(url: str) -> bool:
    return redacted(url) != url


def local_path(text: str) -> str | None:
    """The local path that a path or `file://` URL names; None for other URLs.

    Raises:
        UsageError: a `file://` URL names a host, or holds a NUL.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or not is_url(text):
        return text
    if scheme.lower() not in ("file", "local"):
        return None
    rest = rest.removeprefix("localhost")
    if not rest.startswith("/"):
        raise UsageError(f"{text}: a file:// URL has three slashes and an absolute path, like file:///{rest}")
    path = unquote_to_bytes(rest.encode("utf-8", "surrogateescape"))
    if b"\0" in path:
        raise UsageError(f"{text}: no path holds a NUL (%00)")
    return os.fsdecode(path)
