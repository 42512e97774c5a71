"""The command `pagepack`, also as `python -m pipeline`; Ctrl-C is quiet from the first moment on."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

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
    try:
        cli.main()
    except SystemExit as ended:
        if isinstance(ended.code, int):
            _end(ended.code)
        raise


def _end(code: int) -> NoReturn:
    """As the interpreter ends, but it takes no heap apart: that is a fifth of a second of a run, for nothing."""
    signal.signal(signal.SIGINT, _leave)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # who could be told?
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
