"""Which benchmark lies at a path, by what is there and not by a name that somebody gave it."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.evaluation.evaluate import Dataset
from pipeline.evaluation.olmocr_bench import open_olmocr_bench
from pipeline.evaluation.omnidocbench import open_omnidocbench


def find_dataset(path: Path) -> Dataset | None:
    """None where no benchmark is there, but files to read, or nothing.

    Raises:
        UsageError: a file of data that is no benchmark, or one of which nothing can be used.
    """
    path = Path(os.path.abspath(path))
    found: Dataset | None = open_olmocr_bench(path) or open_omnidocbench(path)
    if found is None and path.suffix in (".json", ".jsonl") and path.is_file():
        raise UsageError(
            f"{path} is the data of no benchmark that is known: olmOCR-bench has a folder pdfs/ beside its .jsonl, "
            "OmniDocBench is a .json with images/ beside it; MM-MT-Bench is `pagepack eval mm-mt-bench DATASET`"
        )
    return found
