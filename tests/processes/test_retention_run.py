"""Page images go and come back in whole runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.running import done_pages, pagepack, processes_of, reconciles, rows, start, wait_until, write_pdf
from tests.s3 import Bucket, bucket, s3_endpoint

__all__ = ["bucket", "s3_endpoint"]


@pytest.mark.parametrize("keep", ["until-read", "30"])
def test_a_second_prompt_is_answered_whatever_was_kept(bucket: Bucket, tmp_path: Path, keep: str) -> None:
    folder, home = tmp_path / "docs", tmp_path / "home"
    folder.mkdir()
    write_pdf(folder / "a.pdf", 3)
    variables = bucket.variables | {"PAGEPACK_KEEP_IMAGES": keep, "PAGEPACK_IMAGES_URL": f"{bucket.url}/images"}
    variables["PAGEPACK_MAX_WAITING_PAGES"] = "2"  # fewer than wait for their images to be drawn again
    assert pagepack("run", folder, "--home", home, **variables).returncode == 0
    left = [key for key in bucket.keys("images/") if key.endswith(".png")]
    assert len(left) == (0 if keep == "until-read" else 3)
    again = pagepack("run", folder, "--home", home, "--prompt", "describe", **variables)
    assert again.returncode == 0, again.stderr
    assert rows(home, "SELECT prompt, count(*) FROM page_text GROUP BY 1 ORDER BY 1") == [("describe", 3), ("ocr", 3)]
    assert rows(home, "SELECT DISTINCT attempts FROM page_tasks") == [(1,)]
    reconciles(home)


def test_what_a_crash_left_is_swept_at_the_end_of_the_batch(tmp_path: Path) -> None:
    folder, home = tmp_path / "docs", tmp_path / "home"
    folder.mkdir()
    write_pdf(folder / "a.pdf", 20)
    first = start("run", folder, "--home", home, engine="SlowEngine")  # with keep: as if each reader died after storing
    wait_until(lambda: (home / "pagepack.db").exists() and done_pages(home) >= 5)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_until(lambda: processes_of(home) == [])
    assert len(list((home / "images").rglob("*.png"))) >= 5
    second = pagepack("run", folder, "--home", home, engine="SlowEngine", PAGEPACK_KEEP_IMAGES="until-read")
    assert second.returncode == 0, second.stderr
    assert list((home / "images").rglob("*.png")) == []
    assert rows(home, "SELECT count(*) FROM pages WHERE image_freed_at IS NULL") == [(0,)]
    reconciles(home)
