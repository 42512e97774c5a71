"""What a page is known to say comes to the engine as a draft, and what became of it is in SQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from PIL import Image

from benchmarks.reader.evaluate import CHECKPOINT, draw_samples
from pipeline.blobs.page_images import ImageStore
from pipeline.blobs.png import encode
from pipeline.settings import Settings
from pipeline.store.known_texts import known_texts
from pipeline.store.pages import NewPage
from schemas.prompts import DESCRIBE, OCR, Prompt
from tests.conftest import Archive, answer
from workers.engines import Begun
from workers.engines.pixtral import PixtralEngine
from workers.reader import Reader

pytestmark = pytest.mark.xdist_group("reader")

MEMORY = 400_000_000
DRAFTS = "SELECT text, output_tokens, drafted_tokens, accepted_tokens FROM {} WHERE engine = 'pixtral'"


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[bool, PixtralEngine]]:
    made = {drafts: PixtralEngine(CHECKPOINT, "cpu", memory_bytes=MEMORY, drafts=drafts) for drafts in (True, False)}
    yield made
    for engine in made.values():
        engine.close()


@pytest.mark.parametrize("drafts", [True, False], ids=["auto", "off"])
def test_a_page_is_read_by_its_own_text_as_without_and_sql_says_how_much_of_it_held(
    archive: Archive, settings: Settings, engines: dict[bool, PixtralEngine], drafts: bool
) -> None:
    sample = next(one for one in draw_samples(4, (192, 64), seed=6, kinds=("words",)) if len(one.layout.text) > 30)
    text = sample.layout.text
    image_hash = ImageStore(settings.home / "images").put(encode(Image.fromarray(sample.pixels)))
    engine = engines[drafts]
    archive.batch(model=engine.model)
    typed = text[:20] + "?" + text[21:] + "\n"
    page = NewPage(0, image_hash, 192, 64, text_layer=typed, text_layer_verdict="stub")
    (waiting,) = archive.ingest(archive.see("/in/a.pdf") or 0, [page])
    Reader(archive.db, engine, settings, "read/1").read(waiting)
    ((read, tokens, drafted, accepted),) = archive.rows(DRAFTS.format("answers"))
    assert read == text, "the model's text, not the draft's"
    if drafts:
        assert 0.8 * tokens < accepted < drafted
        told = archive.rows("SELECT drafted_tokens, accepted_tokens FROM attempts")
        assert told == [(drafted, accepted)]
        assert engine.stats()["accepted_tokens"] == accepted
    else:
        assert (drafted, accepted) == (None, None)


def test_a_draft_is_what_the_page_shows_or_the_text_that_it_carries(archive: Archive) -> None:
    archive.batch(prompts=[OCR, DESCRIBE])
    verdicts = (("carried", "stub"), ("g\ufffdrbled", "garbled"), (None, None), ("carried", "invisible"))
    pages = [
        NewPage(index, f"{index}" * 64, 16, 16, text_layer=text, text_layer_verdict=verdict)
        for index, (text, verdict) in enumerate(verdicts)
    ]
    stub, garbled, bare, cut = archive.ingest(archive.see("/in/a.pdf") or 0, pages)
    fields = Prompt("fields", "Fill in.", schema='{"type": "object"}')

    def known(page: int) -> dict[str, str]:
        return {name: text.strip() for name, text in known_texts(archive.db, page, [OCR, DESCRIBE]).items()}

    assert [known(page) for page in (stub, garbled, bare)] == [{"ocr": "carried"}, {}, {}]
    assert known_texts(archive.db, stub, [DESCRIBE]) == {}, "no answer to another question"
    assert known_texts(archive.db, stub, [fields])["fields"].strip() == "carried", "it may quote the page"
    archive.read(stub, lambda prompt: answer(f'read\n"{prompt.name}"'))
    archive.read(cut, lambda prompt: answer("car", finish_reason="length"))
    assert known(stub) == {"ocr": 'read\n"ocr"', "describe": 'read\n"describe"'}
    assert known_texts(archive.db, stub, [fields, DESCRIBE]) == {
        "fields": r"read\n\"ocr\"",
        "describe": 'read\n"describe"',
    }, "as a string of JSON"
    assert known(cut) == {"ocr": "carried", "describe": "car"}, "a whole text before the beginning of one"


def test_drafts_stand_with_the_answer_that_a_cut_one_became(engines: dict[bool, PixtralEngine]) -> None:
    """A draft beside the tokens that were written before."""
    sample = draw_samples(3, (192, 64), seed=6, kinds=("words",))[0]
    engine = engines[True]
    (short,) = engine.submit(sample.image_hash, sample.pixels, [replace(OCR, max_tokens=9)])
    cut = Begun(short.result(60).token_ids, short.result().confidence)
    drafted = replace(cut, draft=sample.layout.text)
    with_draft, without = (
        engine.submit(sample.image_hash, sample.pixels, [OCR], None, [one])[0] for one in (drafted, cut)
    )
    said, plain = with_draft.result(60), without.result(60)
    assert (said.text, said.confidence, said.output_tokens) == (plain.text, plain.confidence, plain.output_tokens)
    assert (said.accepted_tokens or 0) > 10 and plain.drafted_tokens is None
