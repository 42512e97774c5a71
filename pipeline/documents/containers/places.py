"""Where a member lies, as people and as the system know it.

path        /in/letters.zip!/1913/04.tif              a.zip!/b.zip!/c.pdf: a container in a container
location    file:///in/letters.zip#!/1913/04.tif      percent-encoded, so that what `#!/` divides is certain
"""

from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote_to_bytes

from pipeline.documents.files import display, shortened
from pipeline.urls import IN_PATH

_IN_LOCATION = "#!/"


def member_path(container_path: str, name: str) -> str:
    return shortened(container_path + IN_PATH + display(name))


def member_location(container_location: str, name: str) -> str:
    return container_location + _IN_LOCATION + quote_from_bytes(name.encode("utf-8", "surrogateescape"))


def is_member(location: str) -> bool:
    return _IN_LOCATION in location


def split(location: str) -> tuple[str, list[str]]:
    """The location of the outermost container, and the names that lead from it to the member."""
    outermost, *names = location.split(_IN_LOCATION)
    return outermost, [unquote_to_bytes(name).decode("utf-8", "surrogateescape") for name in names]


def on_disk_path(path: str, location: str) -> str:
    """The path of the file that holds a source: its own, or that of the outermost container around it."""
    _, names = split(location)
    for name in reversed(names):
        path = path.removesuffix(IN_PATH + display(name))
    return path
