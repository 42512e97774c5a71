"""What a failed test leaves running is ended: a held run, its broker and its workers would stay for minutes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress

import psutil
import pytest

from tests.running import processes_of

_HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """After the teardown: fixtures end what they started themselves."""
    report = yield
    item.stash[_HAS_FAILED] = report.failed or item.stash.get(_HAS_FAILED, False)
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if call.when == "teardown" and item.stash[_HAS_FAILED] and folder is not None:
        for process in processes_of(f"{folder}/"):  # not those of test_x10, where test_x1 failed
            with suppress(psutil.NoSuchProcess):
                process.kill()
    return report
