"""Every read that people ask for. What programs of others may import stands here: `open_archive` and `Archive`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.query.archive import Archive, open_archive

__all__ = ["Archive", "open_archive"]


def __getattr__(name: str) -> Any:
    """Loaded when they are asked for: commands import single modules of this wing, and wait for no other."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.query import archive

    return getattr(archive, name)
