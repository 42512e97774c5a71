"""--include and --exclude: which files below a folder are meant."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from pipeline.documents.discover import discover
from pipeline.documents.globs import Globs, parse_globs
from pipeline.errors import UsageError
from pipeline.settings import Settings

FILES = (
    "a.pdf",
    "b.PDF",
    "notes.txt",
    "2024/c.pdf",
    "2024/old/d.pdf",
    "drafts/e.pdf",
    "sub/drafts/f.pdf",
    "sub/g.tiff",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"%PDF-1.7\n")
    return tmp_path


def globs(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Globs:
    return Globs(parse_globs("--include", include), parse_globs("--exclude", exclude))


def met(*paths: Path | str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> set[str]:
    return {found.path for found in discover(paths, Settings(home=Path("/nowhere")), globs(include, exclude))}


CASES: dict[tuple[tuple[str, ...], tuple[str, ...]], set[str]] = {
    ((), ()): set(FILES),
    (("*.pdf",), ()): {"a.pdf", "2024/c.pdf", "2024/old/d.pdf", "drafts/e.pdf", "sub/drafts/f.pdf"},
    (("*.pdf", "*.PDF", "*.tiff"), ()): set(FILES) - {"notes.txt"},
    (("*.[pP][dD][fF]",), ("drafts",)): {"a.pdf", "b.PDF", "2024/c.pdf", "2024/old/d.pdf"},
    (("2024/*.pdf",), ()): {"2024/c.pdf"},
    (("2024/**/*.pdf",), ()): {"2024/c.pdf", "2024/old/d.pdf"},
    (("/*.pdf",), ()): {"a.pdf"},
    (("./*.pdf",), ()): {"a.pdf"},
    (("2024",), ()): {"2024/c.pdf", "2024/old/d.pdf"},
    (("2024/",), ()): {"2024/c.pdf", "2024/old/d.pdf"},
    (("a.pdf/",), ()): set(),
    (("**/old/*",), ()): {"2024/old/d.pdf"},
    (("?.pdf",), ("2024/old",)): {"a.pdf", "2024/c.pdf", "drafts/e.pdf", "sub/drafts/f.pdf"},
    ((), ("*.txt",)): set(FILES) - {"notes.txt"},
    ((), ("drafts/",)): set(FILES) - {"drafts/e.pdf", "sub/drafts/f.pdf"},
    ((), ("/drafts",)): set(FILES) - {"drafts/e.pdf"},
    ((), ("sub/drafts",)): set(FILES) - {"sub/drafts/f.pdf"},
    ((), ("a.pdf/",)): set(FILES),
    (("a.pdf",), ("*.pdf",)): set(),
}


@pytest.mark.parametrize(("include", "exclude"), CASES)
def test_a_pattern_names_files_and_folders_below_the_folder_given(
    folder: Path, include: tuple[str, ...], exclude: tuple[str, ...]
) -> None:
    expected = CASES[include, exclude]
    assert met(folder, include=include, exclude=exclude) == {str(folder / name) for name in expected}
    objects = fsspec.filesystem("memory")
    for name in FILES:
        objects.pipe(f"/globs/in/{name}", b"%PDF-1.7\n")
    assert met("memory://globs/in", include=include, exclude=exclude) == {
        f"memory://globs/in/{name}" for name in expected
    }


def test_of_a_file_that_was_given_itself_the_name_is_looked_at(folder: Path) -> None:
    assert met(folder / "2024/c.pdf", folder / "notes.txt", exclude=("*.txt",)) == {str(folder / "2024/c.pdf")}
    assert met(folder / "2024/c.pdf", include=("2024/*.pdf",)) == set()
    assert met(folder / "drafts", exclude=("drafts",)) == {str(folder / "drafts/e.pdf")}, "of a folder what is below"
    assert met(f"{folder}/*", include=("*.pdf",)) == {str(folder / name) for name in FILES if name.endswith(".pdf")}, (
        "as if the shell had expanded it"
    )


def test_an_object_and_a_pattern_of_objects_are_filtered_too() -> None:
    objects = fsspec.filesystem("memory")
    for name in FILES:
        objects.pipe(f"/more/in/{name}", b"%PDF-1.7\n")
    assert met("memory://more/in/notes.txt", exclude=("*.txt",)) == set()
    assert met("memory://more/in/*", exclude=("old", "*.txt", "*.tiff", "drafts")) == {
        f"memory://more/in/{name}" for name in ("a.pdf", "b.PDF", "2024/c.pdf")
    }


def test_what_is_left_out_is_not_looked_at(folder: Path) -> None:
    """A folder that nobody may list, and a link that leads out, give no row where a pattern leaves them out."""
    (folder / "drafts" / "out.pdf").symlink_to("/etc/passwd")
    (folder / "away").symlink_to("/etc")
    settings = Settings(home=Path("/nowhere"))
    found = [one for one in discover([folder], settings, globs(exclude=("drafts", "away"))) if one.rejection]
    assert found == []
    assert len([one for one in discover([folder], settings) if one.rejection]) == 2


def test_any_bytes_may_stand_in_a_name(folder: Path) -> None:
    odd = folder / "odd \udcff\n[x].pdf"
    odd.write_bytes(b"%PDF-1.7\n")
    assert met(folder, include=("odd*.pdf",)) == met(folder, include=("*\udcff*",)) == {str(odd)}
    assert met(folder, include=("*[[]x].pdf",)) == {str(odd)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "--exclude '' names nothing; write a pattern like '*.txt' or drafts/"),
        ("/", "--exclude '/' names nothing; write a pattern like '*.txt' or drafts/"),
        ("a**b", "--exclude 'a**b' is no pattern: Invalid pattern: '**' can only be an entire path component"),
    ],
)
def test_what_is_no_pattern_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_globs("--exclude", ["*.pdf", text])
    assert str(error.value) == said
