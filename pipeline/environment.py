"""What programs that read strangers' files see of our environment: where things lie, which language; no credentials."""

from __future__ import annotations

import os

_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")


def without_credentials(*also: str) -> dict[str, str]:
    """The variables that any program needs, and those named, as far as they are set."""
    return {name: os.environ[name] for name in (*_KEPT, *also) if name in os.environ}
