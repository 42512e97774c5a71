"""`pagepack serve` in a real browser: its ways with mouse and keys, nothing from elsewhere, axe finds nothing.

One browser, one server and one small archive for all tests. Chromium is Debian's: `apt install chromium`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from PIL import Image, ImageDraw

from pipeline.blobs.page_images import open_images
from pipeline.blobs.png import encode
from pipeline.database.open import open_database
from pipeline.errors import PageFailed
from pipeline.settings import Settings
from pipeline.store.pages import NewPage
from pipeline.web.serve import WebServer
from schemas.prompts import CATALOGUE, OCR
from tests.conftest import Archive, answer

if TYPE_CHECKING:
    from playwright.sync_api import Dialog, Locator, LocatorAssertions, Page

pytestmark = pytest.mark.xdist_group("browser")

HOSTILE = """/scans/<img src=x onerror="window.hacked=1">' onload=hacked=1.pdf"""
WORDS = ("# The tide", "came in at nine", "and went out at three")
SECONDS = 60_000.0  # of a busy machine


@dataclass
class Site:
    """A served archive in a browser's one window, and what the browser did that it should not have done."""

    archive: Archive
    address: str
    token: str
    page: Page
    document: str = ""
    batch: str = ""
    went_elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self._look_at(request.url))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._refuse)

    def open(self, path: str) -> Page:
        """As somebody who comes for the first time, in the window that is there: a new one takes a second."""
        self.page.context.clear_cookies()
        self.look_as(1280, "light")
        self.page.goto(f"{self.address}{path}{'&' if '?' in path else '?'}{self.token}")
        return self.page

    def forget(self) -> None:
        """Keep nothing for the next way: no word of this one's failure, nothing in storage, wherever the page is."""
        devtools = self.page.context.new_cdp_session(self.page)
        devtools.send("Storage.clearDataForOrigin", {"origin": self.address, "storageTypes": "local_storage"})
        devtools.detach()
        self.went_elsewhere.clear()  # last, for what comes in meanwhile belongs to this one too
        self.complaints.clear()

    def look_as(self, width_px: int, scheme: Literal["light", "dark"]) -> None:
        self.page.set_viewport_size({"width": width_px, "height": 900})
        self.page.emulate_media(color_scheme=scheme)

    def _refuse(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()  # until then the page answers nothing, and no time limit ends that

    def _look_at(self, url: str) -> None:
        if not url.startswith(self.address):
            self.went_elsewhere.append(url)


def expect(locator: Locator) -> LocatorAssertions:
    from playwright.sync_api import expect as expected

    return expected(locator)


def draw(settings: Settings, *words: str) -> NewPage:
    """An image with words in it, so that a person who looks at a failed test sees a page."""
    image = Image.new("L", (400, 560), 255)
    pen = ImageDraw.Draw(image)
    for at, text in enumerate(words):
        pen.text((40, 40 + 40 * at), text, fill=0)
    return NewPage(0, open_images(settings).put(encode(image)), 400, 560)


def fill(archive: Archive, settings: Settings) -> tuple[str, str]:
    """Two pages that were read for two prompts, one of them doubted, and one that failed: document and batch."""
    archive.batch(prompts=(OCR, CATALOGUE["describe"]))
    document = archive.see(HOSTILE)
    assert document is not None
    pages = [draw(settings, *WORDS), draw(settings, "gulls"), draw(settings, "nothing")]
    own = ["the tide came in", None, None]  # a version beside what was read
    ids = archive.ingest(
        document, [NewPage(at, one.image_hash, 400, 560, text_layer=own[at]) for at, one in enumerate(pages)]
    )
    lines = [
        [40, 40 + 40 * at, 300, 60 + 40 * at, confidence, text.removeprefix("# ")]
        for at, (text, confidence) in enumerate(zip(WORDS, (0.99, 0.98, 0.41), strict=True))
    ]
    text = "\n\n".join(WORDS) + "\n\n| a | b |\n| --- | --- |\n| <script>window.hacked=2</script> | 2 |"
    doubted = {"confidence": 0.6, "review_reason": "low-confidence", "review_score": 0.8}
    archive.read(ids[0], lambda _: answer(text, details={"lines": lines}, **doubted))
    archive.read(ids[1], lambda _: answer("gulls", **doubted | {"review_score": 0.5}))
    archive.read(ids[2], PageFailed("the engine <b>fell</b> over", cause="engine"))
    return str(archive.scalar("SELECT public_id FROM documents")), archive.batches["b"].public_id


@pytest.fixture(scope="module")
def site(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from playwright.sync_api import sync_playwright  # here alone: each test process collects this file, one runs it

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("these tests drive Chromium, which is not here: apt install chromium")
    home = tmp_path_factory.mktemp("browser")
    shutil.copy(migrated, home / "pagepack.db")
    settings = Settings(home=home)
    archive = Archive(open_database(settings))
    document, batch = fill(archive, settings)
    server = WebServer(settings, "127.0.0.1", 0, None, allow_retry=True, allow_review=True)
    server.start()
    with sync_playwright() as playwright:
        # No name but this machine's address leads anywhere.
        rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", rules])
        address, _, token = server.url.partition("?")
        page = browser.new_page()
        page.set_default_timeout(SECONDS)
        yield Site(archive, address.rstrip("/"), token, page, document, batch)
        browser.close()
    server.stop()
    archive.db.dispose()


@pytest.fixture(autouse=True)
def is_well_behaved(site: Site) -> Iterator[None]:
    """After every way: no request left this machine, no script failed or came from a document."""
    yield
    try:
        assert site.page.evaluate("window.hacked") is None
        assert site.token not in site.page.url
        assert site.went_elsewhere == [] and site.complaints == []
    finally:
        site.forget()


def test_a_search_leads_to_the_page_with_its_image(site: Site) -> None:
    page = site.open("/")
    page.keyboard.press("/")
    page.keyboard.type("tide nine")
    page.keyboard.press("Enter")
    expect(page.locator("mark").first).to_have_text("tide", timeout=SECONDS)
    page.locator(".hits a").first.click()
    page.wait_for_url(re.compile(r"/pages/1\?prompt="))
    assert page.locator(".zoomed img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 400
    assert page.locator("h1 .name").inner_text().endswith("onload=hacked=1.pdf")


def test_a_line_and_its_box_know_each_other(site: Site) -> None:
    page = site.open(f"/documents/{site.document}/pages/1?prompt=ocr")
    line, box = page.locator("a.line[data-line='1']"), page.locator("#box-1")
    line.hover()
    expect(box).to_have_class("on")
    placed = box.bounding_box()
    image = page.locator(".zoomed img").bounding_box()
    assert placed and image
    assert abs((placed["y"] - image["y"]) / image["height"] - 80 / 560) < 0.01  # the box lies where the line is
    page.locator("#box-2").hover()
    expect(box).not_to_have_class("on")
    expect(page.locator("a.line[data-line='2']")).to_have_class(re.compile(r"\bon\b"))
    assert page.locator("a.line[data-line='2'] + .sure").inner_text().replace("\n", " ").split() == [
        *["read", "at", "41%", "confidence"]
    ]
    page.locator("a.line[data-line='0']").focus()  # from line to line by keys
    page.keyboard.press("ArrowDown")
    expect(line).to_be_focused()
    expect(box).to_have_class("on")
    page.locator("#box-0").click()
    expect(page.locator("a.line[data-line='0']")).to_be_focused()


def test_without_scripts_a_page_is_whole_and_has_no_button_that_does_nothing(site: Site) -> None:
    browser = site.page.context.browser
    assert browser is not None
    with browser.new_context(java_script_enabled=False) as without, without.new_page() as page:
        page.goto(f"{site.address}/documents/{site.document}/pages/1?prompt=ocr&{site.token}")
        assert page.locator(".zoomed img").is_visible() and page.locator("a.line").count() == len(WORDS)
        assert page.locator(".tools button").count() == 4
        assert not any(button.is_visible() for button in page.locator(".tools button").all())
    assert site.open(f"/documents/{site.document}/pages/1?prompt=ocr").locator(".tools button").first.is_visible()


def test_keys_turn_pages_and_zoom_unless_they_are_off(site: Site) -> None:
    page = site.open(f"/documents/{site.document}/pages/1?prompt=ocr")
    wide = "document.getElementById('zoomed').offsetWidth"
    before = page.evaluate(wide)
    page.keyboard.press("+")
    assert page.evaluate(wide) > 1.2 * before
    page.keyboard.press("0")
    assert page.evaluate(wide) == before
    page.keyboard.press("9")
    sheet, image = page.locator(".sheet").bounding_box(), page.locator(".zoomed img").bounding_box()
    assert sheet and image and sheet["height"] - 20 < image["height"] <= sheet["height"]
    page.keyboard.press("n")
    page.wait_for_url(re.compile(r"/pages/2\?prompt=ocr"))
    page.keyboard.press("p")
    page.wait_for_url(re.compile(r"/pages/1\?prompt=ocr"))
    page.get_by_role("link", name="describe").click()
    page.wait_for_url(re.compile(r"prompt=describe"))
    page.locator("summary", has_text="Keyboard").click()
    page.get_by_label("Keys of one letter").uncheck()
    page.locator("h1").click()
    page.keyboard.press("+")
    assert page.evaluate(wide) == before


def test_the_review_list_is_worked_off_by_keys(site: Site) -> None:
    page = site.open("/review")
    page.locator(".queue .entry").first.wait_for()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator(".in-queue strong")).to_have_text("1 of 4 worth a look", timeout=SECONDS)
    page.wait_for_load_state()
    for number in (2, 3, 4):
        page.keyboard.press("j")
        expect(page.locator(".in-queue strong")).to_have_text(f"{number} of 4 worth a look", timeout=SECONDS)
        page.wait_for_load_state()
    page.keyboard.press("k")
    expect(page.locator(".in-queue strong")).to_have_text("3 of 4 worth a look", timeout=SECONDS)
    page.wait_for_load_state()
    page.keyboard.press("s")  # seen, and on to what was the fourth
    expect(page.locator(".in-queue strong")).to_have_text("3 of 3 worth a look", timeout=SECONDS)
    page.go_back()
    page.reload()
    page.keyboard.press("u")  # not seen after all
    expect(page.locator(".in-queue strong")).to_have_text("3 of 4 worth a look", timeout=SECONDS)


def test_a_batch_moves_by_itself_and_a_failure_is_retried(site: Site) -> None:
    page = site.open(f"/batches/{site.batch}")
    failed = page.locator(".tile", has_text="Failed pages").locator(".value")
    expect(failed).to_have_text("1", timeout=SECONDS)
    page.get_by_role("link", name="engine").click()
    picture = page.locator(".cards img").first
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert "the engine <b>fell</b> over" in page.locator(".cards").inner_text()
    page.get_by_role("button", name="Retry all engine").click()
    expect(page.get_by_role("status")).to_contain_text("2 wait again", timeout=SECONDS)
    page.goto(f"{site.address}/batches/{site.batch}")
    expect(failed).to_have_text("0", timeout=SECONDS)
    (waiting,) = site.archive.rows("SELECT DISTINCT page_id FROM page_tasks WHERE state = 'pending'")
    site.archive.read(waiting[0], "read now")  # while somebody looks
    expect(page.locator(".tile.broad .value")).to_contain_text("3 of 3 done", timeout=SECONDS)


ON_A_PHONE = ["color-contrast", "link-in-text-block", "scrollable-region-focusable", "target-size"]
"""Rules that a narrow window, a thumb or dark colours can break. The page of most parts is held to all, there too."""


LOOK = """async runOnly => {
    const said = await axe.run({...(runOnly && {runOnly}), resultTypes: ["violations"]});
    const root = document.documentElement;
    const violated = said.violations.map(one => [one.id, one.nodes.map(node => node.html)]);
    return [said.passes.map(one => one.id), violated, root.scrollWidth - root.clientWidth];
}"""
"""Only what the test asks for goes through the driver: all of axe's report was a megabyte a page."""


def test_axe_finds_nothing_and_nothing_scrolls_sideways(site: Site) -> None:
    from axe_playwright_python.base import AXE_SCRIPT

    found = {}
    page = site.open("/")
    where = f"/documents/{site.document}"
    paths = ["/", f"/batches/{site.batch}", f"/batches/{site.batch}/failures", where, f"{where}/pages/1?prompt=ocr"]
    for path in [*paths, "/review", "/search?q=tide", "/charts", "/sql?q=SELECT+1+AS+one", "/nowhere"]:
        page.goto(f"{site.address}{path}")
        page.evaluate(AXE_SCRIPT)
        looks: list[tuple[int, Literal["light", "dark"], list[str] | None]]
        looks = [(1280, "light", None), (390, "dark", None if "/pages/" in path else ON_A_PHONE)]
        for width, scheme, rules in looks:
            site.look_as(width, scheme)
            passed, violated, wide = page.evaluate(LOOK, {"type": "rule", "values": rules} if rules else None)
            assert "color-contrast" in passed  # it did look
            found |= {f"{path}, {scheme}: {rule}": nodes for rule, nodes in violated}
            found |= {f"{path}, {scheme}: scrolls sideways": wide} if wide > 0 else {}
    site.complaints.clear()  # of the page that is not there
    assert found == {}
