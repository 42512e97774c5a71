"""Where what is written of a source goes: below `out`, whatever the source is called.

Names come from strangers' archives. Relative to the folder that all sources share, each part of a path keeps its name
where a file system can hold it; what cannot is spelled out (`..` becomes `%2E%2E`), and what is too long is cut and
ends in a hash. The extension stays, so that `a.pdf` and `a.png` become `a.pdf.md` and `a.png.md`.
"""

from __future__ import annotations

import hashlib
import sqlite3
import unicodedata
from collections import OrderedDict
from pathlib import Path

from pipeline.errors import DiskFull, UsageError

_MAX_NAME_BYTES = 240  # file systems hold 255; some room for `.md`
_MAX_PATH_BYTES = 3_000  # Linux opens 4,096, with `out` itself in front
_RESERVED = {"con", "prn", "aux", "nul", *(f"{device}{n}" for device in ("com", "lpt") for n in range(10))}


def shared_folder(first: str, last: str) -> str:
    """The folder above all paths that sort between these two, with its `/`; empty where they share none."""
    shared = 0
    for a, b in zip(first, last, strict=False):
        if a != b:
            break
        shared += 1
    return first[: first.rfind("/", 0, shared) + 1]


_NAMES = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA cache_size = -8000",  # 8 MB
    "CREATE TABLE names (key INTEGER PRIMARY KEY, is_file INTEGER)",
    "BEGIN",  # one transaction, for nothing is ever taken back
)
_FOLDERS_KEPT = 1_000  # that were looked at, whether they lead elsewhere


class Targets:
    """Gives each source a file of its own; remembers a hash of each name, and of folders', to see collisions.

    In a temporary database of SQLite's, which goes to the disk when it is large: ten million documents take as much
    memory as ten, and 250 MB of the folder for temporary files.
    """

    def __init__(self, out: Path, root: str, ending: str = ".md") -> None:
        self.out = out.resolve()
        self._ending = ending
        self.root = root
        self._names = sqlite3.connect("", isolation_level=None)
        for statement in _NAMES:
            self._names.execute(statement)
        self._safe_folders: OrderedDict[Path, None] = OrderedDict()

    def of(self, source_path: str) -> Path:
        """The file for this source, or the folder for its pages; made safe, and made different from every other one."""
        parts = [safe_name(part) for part in source_path.removeprefix(self.root).split("/") if part] or ["%2E"]
        if not parts[-1].lower().endswith(self._ending):  # a.pdf stays a.pdf
            parts[-1] += self._ending
        try:
            if len("/".join(parts).encode()) > _MAX_PATH_BYTES or self._is_taken(parts):
                parts = ["_renamed", f"{_hash(source_path)}-{safe_name(parts[-1][-40:])}"]
            self._take(parts)
        except sqlite3.OperationalError as error:
            raise DiskFull(
                f"no room in the folder for temporary files to remember names of what is written: {error}; free some, "
                "or name another folder as TMPDIR"
            ) from error
        target = self.out.joinpath(*parts)
        self._check(target.parent)
        return target

    def within(self, folder: Path, name: str) -> Path:
        """A file in the folder that `of` gave for a source."""
        self._check(folder)
        return folder / name

    def _is_taken(self, parts: list[str]) -> bool:
        """By a file, or by a folder that has its name; or one of its own folders has a file's name."""
        above = [_key(parts[:depth]) for depth in range(1, len(parts))]
        is_file = f"is_file AND key IN ({', '.join('?' * len(above))})"
        found = self._names.execute(f"SELECT 1 FROM names WHERE key = ? OR {is_file} LIMIT 1", (_key(parts), *above))
        return found.fetchone() is not None

    def _take(self, parts: list[str]) -> None:
        rows = [(_key(parts[:depth]), False) for depth in range(1, len(parts))]
        self._names.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", [*rows, (_key(parts), True)])

    def _check(self, folder: Path) -> None:
        """A symbolic link that lies in `out` already may lead elsewhere."""
        if folder not in self._safe_folders:
            if not folder.resolve().is_relative_to(self.out):
                raise UsageError(
                    f"{folder} leads out of {self.out} through a symbolic link; remove it or choose another --out"
                )
            self._safe_folders[folder] = None
            if len(self._safe_folders) > _FOLDERS_KEPT:
                self._safe_folders.popitem(last=False)


def safe_name(name: str) -> str:
    """One part of a path that every file system holds as one name; the same for the same name."""
    if not name.strip("."):
        return "%2E" * max(len(name), 1) if len(name) < 20 else f"%2E-{_hash(name)}"
    safe = "".join(_spelled(character) for character in name)
    if safe.split(".")[0].rstrip().lower() in _RESERVED:
        safe = f"_{safe}"  # Windows opens a device for these, whatever follows the dot
    if len(safe.encode()) <= _MAX_NAME_BYTES:
        return safe
    stem, dot, extension = safe.rpartition(".")
    ending = f"~{_hash(name)}" + (f".{extension}" if dot and stem and len(extension.encode()) <= 16 else "")
    kept = safe.encode()[: _MAX_NAME_BYTES - len(ending.encode())].decode(errors="ignore")
    return kept + ending


def _spelled(character: str) -> str:
    if character in "/\\" or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))
    return character


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]


def _key(parts: list[str]) -> int:
    """Equal for names that some file systems take for one: those that differ in case or in how accents are written."""
    folded = unicodedata.normalize("NFC", "/".join(parts)).casefold()
    return int.from_bytes(hashlib.blake2b(folded.encode(), digest_size=8).digest(), "big", signed=True)
