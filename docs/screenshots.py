"""Draws the pictures of docs/web.md and the README, with Chromium (apt install chromium) and the dev extra.

cp -r samples /scans && pagepack run /scans --home HOME
python docs/screenshots.py HOME
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from pipeline.settings import load_settings
from pipeline.web.serve import WebServer


def main(home: Path) -> None:
    server = WebServer(load_settings(home=home), "127.0.0.1", 0, None, allow_retry=False)
    server.start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, file, number, width, height, scheme in (
            ("web-page", "invoice-scan.pdf", 1, 1280, 800, "light"),
            ("web-dark", "fax.tiff", 2, 1280, 560, "dark"),
            ("web-phone", "report.pdf", 1, 390, 800, "light"),
        ):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            page.goto(f"{server.url}sql?q=SELECT document_id FROM files WHERE file_name = '{file}'")
            document = page.locator(".result td").first.inner_text()
            page.goto(f"{server.url}documents/{document}/pages/{number}")
            page.wait_for_load_state("networkidle")
            page.locator("a.line").nth(5).focus()
            image = Image.open(io.BytesIO(page.screenshot()))
            image.convert("RGB").save(Path(__file__).parent / f"{name}.webp", "WEBP", quality=82, method=6)
            context.close()
        browser.close()
    server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
