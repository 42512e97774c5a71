"""Start-up of a worker process: `python -m workers ROLE`.

    describe   print which engine the settings choose to read here, as one line of JSON, and end
    name       the same of a reader elsewhere: this machine's devices are asked only where a setting is auto
    doctor     print what each engine finds on this machine, as one line of JSON, and end
    converse   answer conversations that come on standard input, and end with it
    time       read the pages on standard input, print how long each took as one line of JSON, and end
    verify     check the engine on a checkpoint, print what was found as one line of JSON, and end
    second     hold half of a model for the worker that says what to do on standard input, and end with it
    ingest     rasterize documents, in processes
    read       read pages, in threads around one engine

`pagepack run` and `pagepack worker` start these; settings come from PAGEPACK_* variables. A worker whose standard input
is a pipe ends when the pipe closes, so that none outlives the process that started it.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
import uuid
import warnings
from contextlib import suppress
from typing import NoReturn

from pipeline.errors import UsageError, exit_code
from pipeline.settings import load_settings
from pipeline.telemetry.logs import set_up_logs
from pipeline.telemetry.traces import set_up_traces, stop_traces
from workers.choose import choose_engine

log = logging.getLogger("pagepack.worker")
_PR_SET_NAME = 15  # linux/prctl.h


def main(role: str) -> int:
    """Run a role until it is told to stop; the exit code, as of `pagepack`: 2, 4, or 70 for a fault of the program."""
    ignore_celery_warnings()
    try:
        settings = load_settings()
        owner = os.environ.get("PAGEPACK_INTERNAL_OWNER") or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        set_up_logs(settings, lambda: f"{owner}{os.getpid()}" if role == "ingest" else owner)
        set_up_traces()
        if role in ("describe", "name"):
            print(json.dumps(choose_engine(settings, reads_here=role == "describe").as_json()))
            return 0
        if role == "doctor":
            from workers.doctor import check_engines

            print(json.dumps(check_engines(settings)))
            return 0
        if role == "time":
            from workers import timing

            print(json.dumps(timing.run(settings)))
            return 0
        if role == "verify":
            from workers.verify.check import run

            print(json.dumps(run(settings)))
            return 0
        if role == "converse":
            from workers import converse

            converse.run(settings)
            return 0
        if role == "second":
            from workers.pixtral.pair import second

            _take_name(role)
            second.run()
            return 0
        if settings.broker_url is None:
            raise UsageError("PAGEPACK_BROKER_URL is not set; `pagepack run` starts a broker and workers by itself")
        _die_with_parent()
        _take_name(role)
        from workers import serve  # takes a second to import, which the others need not wait for

        (serve.ingest if role == "ingest" else serve.read)(settings, settings.broker_url, owner)
        return 0
    except Exception as error:
        return exit_code(error)
    finally:
        stop_traces()


def ignore_celery_warnings() -> None:
    """What Celery warns of and is as it should be here. No worker takes pickle, the danger in the first two."""
    warnings.filterwarnings("ignore", message="You're running the worker with superuser")  # in a container it may
    # The user and group of a container are numbers, RUN_AS of .env, that its image need not have names for.
    warnings.filterwarnings("ignore", message="An entry for the specified gid or egid was not found")
    warnings.filterwarnings("ignore", message=r"\s*In Celery 5\.1 we introduced")  # a lost connection; we have chosen


def _die_with_parent() -> None:
    """Where standard input is a pipe, its end means that the parent is gone: end at once, children too."""
    if not os.environ.get("PAGEPACK_INTERNAL_GUARD"):
        return

    def watch() -> None:
        try:
            while os.read(0, 4096):  # not through sys.stdin: its lock would be held in every forked child
                pass
        except OSError:  # it guards no more; whoever started this process starts another
            log.critical("standard input cannot be read, whose end tells of the parent's: ending", exc_info=True)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _take_name(role: str) -> None:
    """As `ps -o comm` and `top` show it; the command line is the run's where a run forked this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, f"pagepack:{role}".encode(), 0, 0, 0)


def _leave(code: int) -> NoReturn:
    """End at once: to take a heap of all these modules apart takes a fifth of a second, and leaves nothing else."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main(sys.argv[1]))
