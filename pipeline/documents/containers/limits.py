"""How much of a container is taken, so that a small file which unpacks to a large one costs little.

    members   all that are listed, folders too: PAGEPACK_MAX_CONTAINER_MEMBERS
    bytes     of the members that are read, unpacked: PAGEPACK_MAX_CONTAINER_BYTES
    depth     containers in containers: PAGEPACK_MAX_CONTAINER_DEPTH

A container in a container has half of what is left to the one around it. So the whole of it stays within the limits,
and a bomb among good members leaves them their half.
"""

from __future__ import annotations

from pipeline.documents.containers.members import MembersLost
from pipeline.documents.files import rejected
from pipeline.settings import Settings


class Budget:
    """What is left to a container."""

    def __init__(self, num_members: int, num_bytes: int, around: Budget | None = None) -> None:
        self.num_members, self.num_bytes = num_members, num_bytes
        self._whole = (num_members, num_bytes)
        self._around = around

    @classmethod
    def of(cls, settings: Settings) -> Budget:
        return cls(settings.max_container_members, settings.max_container_bytes)

    def half(self) -> Budget:
        """Of a container in this one; what it spends is spent here too."""
        return Budget(self.num_members // 2, self.num_bytes // 2, self)

    def spend_member(self) -> None:
        """Raises MembersLost where it is one too many."""
        if self.num_members <= 0:
            raise self.too_many_members(SO_FAR)
        self._spend(1, 0)

    def spend_bytes(self, num_bytes: int) -> None:
        """Raises MembersLost where they are too many."""
        if num_bytes > self.num_bytes:
            raise self.too_many_bytes()
        self._spend(0, num_bytes)

    def too_many_members(self, and_then: str = "none of them is taken") -> MembersLost:
        over = f"has more than {self._whole[0]:,} members, which is the limit{self._of_a_part()}"
        return MembersLost("too-large", f"{over}; raise PAGEPACK_MAX_CONTAINER_MEMBERS or unpack it; {and_then}")

    def too_many_bytes(self) -> MembersLost:
        over = f"unpacks to more than {self._whole[1]:,} bytes, which is the limit{self._of_a_part()}"
        return MembersLost("too-large", f"{over}; raise PAGEPACK_MAX_CONTAINER_BYTES or unpack it; {SO_FAR}")

    def _spend(self, num_members: int, num_bytes: int) -> None:
        self.num_members -= num_members
        self.num_bytes -= num_bytes
        if self._around is not None:
            self._around._spend(num_members, num_bytes)

    def _of_a_part(self) -> str:
        return "" if self._around is None else " of a container in another one: half of what was left"


SO_FAR = "what comes before that is taken"


def check_size(name: str, size_bytes: int, settings: Settings) -> None:
    """Raises DocumentRejected for a member that would be too large as a file."""
    if size_bytes > settings.max_file_bytes:
        limit = f"over the limit of {settings.max_file_bytes:,}; raise PAGEPACK_MAX_FILE_BYTES or split it"
        raise rejected("too-large", name, f"has {size_bytes:,} bytes or more, {limit}")
