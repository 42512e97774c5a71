"""The process that opens strangers' files: no credentials, little memory, no way to write, and it may die at any time.

    parent → child   {"op": "open", "kind", "detail"} with the file's descriptor   {"op": "pages", "first", "end"}
    child → parent   {"is": "ready"}   {"is": "opened", "page_count": n} or {"is": "rejected", "cause", "text"}
                     {"is": "page", "slot": 0 or 1, …} or {"is": "failed", "cause", "text"}, for each page in order
    parent → child   {"op": "attachments"} with a PDF's descriptor
    child → parent   {"is": "attachment", "name", "error"} and its bytes as {"is": "content", "data"}, …, {"is": "end"}
    parent → child   one byte for each page whose slot it has read
    parent → child   {"op": "searchable", …}, and what `text_requests` says

A message is its length (4 bytes, network order), then JSON. Pixels lie in one of two slots of shared memory, so the
child draws a page while the parent encodes the one before; through the socket they cost 1.3 ms of processor time more a
page. The child ends when the socket does.
"""

from __future__ import annotations

import base64
import ctypes
import gc
import json
import math
import mmap
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

from pipeline.errors import DocumentRejected, PageFailed

_LENGTH = struct.Struct("!I")
MAX_MESSAGE_BYTES = 16 * 2**20  # a text layer of a million characters, each escaped as two of six
SLOTS = 2
CONTENT_BYTES = 1 << 20  # of an attachment, a message
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h


def pack(message: dict[str, Any]) -> bytes:
    """A message as it crosses the socket."""
    text = json.dumps(message).encode()
    return _LENGTH.pack(len(text)) + text


def length(prefix: bytes | bytearray) -> int:
    """Bytes of JSON that follow the 4 of the prefix; ValueError where they are out of all bounds."""
    (size,) = _LENGTH.unpack(prefix)
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {size:,} bytes")
    return int(size)


def confine(memory_bytes: int, parent_pid: int, dies_with_parent: bool) -> None:
    """Limit memory, forbid writing files and core dumps, and die with the parent where the system can see to it.

    Elsewhere the end of the socket ends the process, or the limit of CPU time if it is deep in a page.
    """
    for what, limit in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(what, (limit, limit))
        except (ValueError, OSError):  # macOS refuses RLIMIT_AS; a lower limit may be set already
            continue
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if dies_with_parent:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent_pid:  # it was gone before we asked
                os._exit(0)


def allow_cpu(seconds: float) -> None:
    """Let this process compute so much longer; past that the kernel ends it (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime + seconds) + 1, hard))


def main() -> None:
    """Serve requests on descriptor 0 until the other end closes it."""
    setup = json.loads(sys.argv[1])
    connection = socket.socket(fileno=0)
    for sent_to_all in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # Ctrl-C and shutdowns reach the whole group: the parent decides
        signal.signal(sent_to_all, signal.SIG_IGN)
    gc.disable()  # what is imported lives on: looking for cycles among it is a twentieth of this start
    from pipeline.documents.pages.drawn import Limits, Opened, clean
    from pipeline.documents.pdf.mupdf import pymupdf
    from pipeline.documents.render import open_document

    gc.freeze()
    gc.enable()

    sys.stderr = os.fdopen(os.dup(2), "w")  # for our own faults
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and others print what they dislike
    for show in (pymupdf.TOOLS.mupdf_display_errors, pymupdf.TOOLS.mupdf_display_warnings):
        show(False)
    confine(setup["memory_bytes"], setup["parent_pid"], setup["dies_with_parent"])
    limits = Limits(**setup["limits"])
    seconds: float = setup["seconds"]
    document: Opened | None = None
    held = -1
    slot_bytes: int = setup["slot_bytes"]
    shared = mmap.mmap(setup["shared_descriptor"], SLOTS * slot_bytes)
    connection.sendall(pack({"is": "ready"}))

    while (request := _receive(connection)) is not None:
        message, descriptors = request
        allow_cpu(seconds)
        if message["op"] == "open":
            document = None
            if held >= 0:
                os.close(held)
            held = descriptors[0]
            try:
                document = open_document(f"/dev/fd/{held}", message["kind"], limits, message["detail"])
                connection.sendall(pack({"is": "opened", "page_count": document.page_count}))
            except DocumentRejected as error:
                connection.sendall(pack({"is": "rejected", "cause": error.cause, "text": str(error)}))
            continue
        if message["op"] == "attachments":
            from pipeline.documents.pdf.attachments import attached_files

            for name, content, fault in attached_files(f"/dev/fd/{descriptors[0]}", limits.max_pages):
                allow_cpu(seconds)
                connection.sendall(pack({"is": "attachment", "name": clean(name), "error": fault}))
                for start in range(0, len(content), CONTENT_BYTES):
                    data = base64.b64encode(content[start : start + CONTENT_BYTES]).decode()
                    connection.sendall(pack({"is": "content", "data": data}))
            os.close(descriptors[0])
            connection.sendall(pack({"is": "end", "rss_bytes": _rss_bytes()}))
            continue
        if message["op"] == "searchable":
            from pipeline.documents.text_requests import serve

            document = None  # two at once would take twice the memory
            path = f"/dev/fd/{descriptors[0]}"

            def send(answer: dict[str, Any]) -> None:
                allow_cpu(seconds)
                connection.sendall(pack(answer | {"rss_bytes": _rss_bytes()}))

            serve(message, path, limits, (again[0] for again in iter(lambda: _receive(connection), None)), send)
            os.close(descriptors[0])
            continue
        assert document is not None, "pages asked for before a document was opened"
        sent = unread = 0
        for page_index in range(message["first"], message["end"]):
            allow_cpu(seconds)
            try:
                drawn = document.draw(page_index)
            except PageFailed as error:
                failed = {"is": "failed", "cause": error.cause, "text": str(error)}
                connection.sendall(pack(failed | {"rss_bytes": _rss_bytes()}))
                continue
            if unread == SLOTS and connection.recv(1):  # the slot that comes next has been read
                unread -= 1
            slot = sent % SLOTS
            shared[slot * slot_bytes : slot * slot_bytes + len(drawn.pixels)] = drawn.pixels
            sent, unread = sent + 1, unread + 1
            facts = {
                "is": "page",
                "slot": slot,
                "mode": drawn.mode,
                "width_px": drawn.width_px,
                "height_px": drawn.height_px,
                "width_pt": drawn.width_pt,
                "height_pt": drawn.height_pt,
                "dpi": drawn.dpi,
                "print_px": drawn.print_px,
                "text_layer": drawn.text_layer,
                "text_lines": drawn.text_lines,
                "strokes": drawn.strokes,
                "warnings": drawn.warnings,
                "rss_bytes": _rss_bytes(),
            }
            connection.sendall(pack(facts))
        while unread and connection.recv(1):
            unread -= 1


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next request with the descriptors that came along, or None at the end."""
    prefix, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, 1)
    if len(prefix) < _LENGTH.size:
        return None
    size = length(prefix)
    text = b""
    while len(text) < size:
        more = connection.recv(size - len(text))
        if not more:
            return None
        text += more
    message: dict[str, Any] = json.loads(text)
    return message, descriptors


def _rss_bytes() -> int:
    """The most memory this process ever held. On Linux `ru_maxrss` begins with what its parent held at the start."""
    with suppress(OSError, IndexError), open("/proc/self/status", "rb", buffering=0) as status:  # 14 µs; not on macOS
        return int(status.read(8192).partition(b"VmHWM:")[2].split(None, 1)[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    main()
