"""`pagepack verify` on the shipped reader: it agrees; what is not the same is found, and what is absent is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.reader.evaluate import CHECKPOINT, draw_samples
from pipeline.errors import UsageError
from pipeline.settings import Settings
from tests.running import call
from workers.pixtral.model.fingerprint import lacks
from workers.verify import check, reference
from workers.verify.packed import Packed, read_packed
from workers.verify.pages import Page, drawn_pages, pages_of

pytestmark = pytest.mark.xdist_group("reader")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return [Page(f"{number}", sample.pixels, True) for number, sample in enumerate(draw_samples(4, (192, 64), seed=4))]


@pytest.fixture(scope="module")
def packed(pages: list[Page]) -> Packed:
    return read_packed(CHECKPOINT, CPU, pages, 24)


def test_the_reader_agrees_with_mistral_inference_and_with_itself_in_company(
    pages: list[Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "drawn_pages", lambda count: pages[:count])
    monkeypatch.setenv(check.ASKED, json.dumps({"pages": 4, "tokens": 24}))
    found = check.run(Settings(model=CHECKPOINT))
    assert (found["verdict"], found["reasons"], found["reference"]["state"]) == ("agrees", [], "read")
    assert len(found["pages"]) == 4 and found["model"].startswith("pixtral-")
    for page in found["pages"]:
        assert page["alone_and_in_company"]["bitwise"] and page["reference"]["prompt_equal"]
        assert page["reference"]["tokens_equal"] >= 0.9 * page["reference"]["tokens"] > 0
        assert 0 < page["reference"]["largest_difference"] < 0.2 * page["reference"]["spread_of_logits"]
    assert json.loads(json.dumps(found)) == found


def test_another_arithmetic_is_told_apart(packed: Packed, tmp_path: Path) -> None:
    """As an engine would differ that rotates by other angles."""
    other = tmp_path / "other"
    shutil.copytree(CHECKPOINT, other)
    params = json.loads((other / "params.json").read_text())
    (other / "params.json").write_text(json.dumps(params | {"rope_theta": 20_000.0}))
    theirs = reference.read_reference(other, CPU, packed.dtype, packed.alone)
    tolerance = check.Tolerance.of(packed.dtype, packed.layers)
    pairs = zip(packed.alone, theirs, strict=True)
    agreed = [check.compare(one.logits, logits, tolerance) for one, (_, logits) in pairs if len(one.tokens) > 1]
    assert agreed and not any(one.agrees for one in agreed)


def test_a_page_that_reads_otherwise_in_company_is_told(packed: Packed) -> None:
    first = packed.company[0]
    logits = first.logits.clone()
    logits[2, 7] = logits[2].max() + 30
    tokens = [*first.tokens[:2], int(logits[2].argmax()), *first.tokens[3:]]
    leaky = replace(packed, company=[replace(first, logits=logits, tokens=tokens), *packed.company[1:]])
    page = check._page(leaky, 0, [], CPU)
    assert page["reasons"] and not page["alone_and_in_company"]["bitwise"]
    assert page["alone_and_in_company"]["far_tokens"] == 1 and page["alone_and_in_company"]["tokens"] == 3
    assert check._page(packed, 0, [], CPU)["reasons"] == []


def test_what_is_absent_or_does_not_fit_is_said_with_the_way_out(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as absent:
        absent.setattr(reference, "version", lambda: None)
        with pytest.raises(reference.NotHere, match="pip install mistral-inference"):
            reference.read_reference(CHECKPOINT, CPU, packed.dtype, packed.alone)
    monkeypatch.setattr(reference, "available_bytes", lambda _device: 1_000_000)
    with pytest.raises(reference.NotHere, match=r"needs 2\.\d GB on cpu.*free some"):
        reference.read_reference(CHECKPOINT, CPU, packed.dtype, packed.alone)


def test_the_command_on_files_of_ones_own_writes_what_it_found(pages: list[Page], tmp_path: Path) -> None:
    for number, page in enumerate(pages[:2]):
        Image.fromarray(page.pixels).save(tmp_path / f"secret-{number}.png")
    out, files = tmp_path / "found.json", sorted(tmp_path.glob("*.png"))
    done = call("verify", *files, "--model", CHECKPOINT, "--tokens", "8", "--out", out, engine="")
    assert done.returncode == 0, done.stderr
    assert "verdict: agrees" in done.stdout and "bit for bit the same" in done.stdout
    found = json.loads(out.read_text())
    assert found["verdict"] == "agrees" and len(found["pages"]) == 2
    assert "secret" not in out.read_text() and "text" not in found["pages"][0], "it is to be sent"
    lost = call("verify", "--out", tmp_path / "gone" / "found.json", engine="")
    assert lost.returncode == 2 and "lies in none" in lost.stderr, "said before anything is computed"
    none = call("verify", "--out", out, engine="")
    assert none.returncode == 2 and "--model DIR" in none.stderr
    (tmp_path / "words.txt").write_text("words")
    wrong = call("verify", tmp_path / "words.txt", "--model", CHECKPOINT, engine="")
    assert wrong.returncode == 2 and "words.txt" in wrong.stderr and "drawn pages" in wrong.stderr


@pytest.mark.parametrize("name", ["folder", "empty.pdf", "gone.pdf", "text.pdf"])
def test_a_file_of_which_no_page_is_drawn_is_named_once(tmp_path: Path, settings: Settings, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.pdf").touch()
    (tmp_path / "text.pdf").write_text("%PDF-1.4 and no more of it")
    with pytest.raises(UsageError, match="name another file, or none for drawn pages") as told:
        pages_of([tmp_path / name], 1, settings)
    assert str(told.value).count(str(tmp_path / name)) == 1


def test_a_checkpoint_that_is_no_folder_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert lacks(tmp_path / "gone", "x").startswith(f"the checkpoint {tmp_path / 'gone'} is not there; give the folder")
    assert lacks(tmp_path / "file", "x").startswith(f"the checkpoint {tmp_path / 'file'} is a file; give the folder")
    assert "holds no x" in lacks(tmp_path, "x")


def test_drawn_pages_are_the_same_each_time_and_fit_one_image() -> None:
    first, second = drawn_pages(6), drawn_pages(6)
    assert all((one.pixels == other.pixels).all() for one, other in zip(first, second, strict=True))
    assert all(side % 16 == 0 and side <= 1024 for page in first for side in page.pixels.shape[:2])
    assert all((page.pixels < 128).any() for page in first) and pages_of.__doc__
