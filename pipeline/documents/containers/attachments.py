"""Files that are attached to a PDF, or lie in a portfolio: the sandboxed process takes them out, one after another."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, cast

from pipeline.documents.containers.limits import SO_FAR, Budget
from pipeline.documents.containers.members import Member, MembersLost, Names, Part, leads_out
from pipeline.documents.rasterize import Rasterizer
from pipeline.documents.render_process import ChildGone
from pipeline.documents.scratch import room_for, scratch_file
from pipeline.settings import Settings


class AttachedMembers:
    """Takes all of them out at once, as many bytes as the budget has, into a file without a name."""

    def __init__(
        self, file: BinaryIO, name: str, rasterizer: Callable[[], Rasterizer], settings: Settings, budget: Budget
    ) -> None:
        self._scratch = scratch_file(settings)
        self._seconds = settings.rasterize_seconds
        self._found: list[tuple[str, int, int, str | None]] = []  # name, first byte, size, what went wrong
        self._lost: MembersLost | None = None
        held = rasterizer()
        try:
            with room_for(name, settings):
                self._take(file, held, budget)
        except ChildGone as gone:
            held.close()
            self._lost = MembersLost(gone.cause, f"has attachments that cannot be taken out: {gone}")
        except (KeyError, TypeError, ValueError) as error:
            held.close()
            self._lost = MembersLost("crash", f"has attachments that came as nonsense: {error}")
        except BaseException:
            held.close()
            self._scratch.close()
            raise

    def members(self) -> Iterator[Member]:
        names = Names()
        for raw, start, size, error in self._found:
            name = names.name(raw)
            refusal = leads_out(name) or (None if error is None else ("damaged", f"cannot be taken out: {error}"))
            yield Member(name, self._opener(start, size), size, refusal)
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        self._scratch.close()

    def _opener(self, start: int, size: int) -> Callable[[], IO[bytes]]:
        return lambda: cast(IO[bytes], Part(self._scratch, start, size))

    def _take(self, file: BinaryIO, rasterizer: Rasterizer, budget: Budget) -> None:
        child = rasterizer.child()
        child.send({"op": "attachments"}, file.fileno())
        at = 0
        while (message := child.receive(self._seconds))["is"] != "end":
            if message["is"] == "attachment":
                if len(self._found) >= budget.num_members:  # one of no bytes costs memory, too
                    self._lost = budget.too_many_members(SO_FAR)
                    rasterizer.close()
                    return
                self._found.append((str(message["name"]), at, 0, message["error"]))
                continue
            data = base64.b64decode(message["data"])
            if at + len(data) > budget.num_bytes:
                self._found.pop()
                self._lost = budget.too_many_bytes()
                rasterizer.close()
                return
            name, start, size, error = self._found[-1]
            self._scratch.write(data)
            at += len(data)
            self._found[-1] = (name, start, size + len(data), error)
