"""The command `pagepack`, also as `python -m pipeline`; Ctrl-C is quiet from the first moment on."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Any

# Imports make tens of thousands of objects that live on; looking for cycles among them is a tenth of a start.
GC_THRESHOLD = 50_000


def _leave(*_: Any) -> None:
    os._exit(130)


def main() -> None:
    """Load the commands, which takes a moment, then run one."""
    gc.set_threshold(GC_THRESHOLD)
    signal.signal(signal.SIGINT, _leave)
    try:
        from pipeline.cli import main as cli
    except Exception as error:  # a library that is broken
        from pipeline.errors import exit_code

        sys.exit(exit_code(error))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
