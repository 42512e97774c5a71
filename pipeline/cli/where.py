"""Where answers go, in words: a file in the home, or a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.settings import Settings


def home_words(settings: Settings) -> list[str]:
    """`--home DIR`, where that does not go without saying."""
    return [] if settings.home.absolute() == Path("pagepack-data").absolute() else ["--home", str(settings.home)]


def database_name(settings: Settings) -> str:
    """As people know it, without a password."""
    if settings.database_url is None:
        return str(settings.home / "pagepack.db")
    from pipeline.urls import server_name, server_url

    return server_name(server_url(settings.database_url))
