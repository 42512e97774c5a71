"""The small reader of the repository, loaded once for a module's tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def model():
    from benchmarks.reader.evaluate import CHECKPOINT
    from workers.pixtral.model.load import load_model

    return load_model(CHECKPOINT)


@pytest.fixture(scope="module")
def processor(model):
    from benchmarks.reader.evaluate import CHECKPOINT
    from workers.pixtral.text.processor import Processor

    return Processor(CHECKPOINT, model.config)
