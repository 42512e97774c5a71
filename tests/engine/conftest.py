"""The small reader of the repository, loaded once for a module's tests."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(scope="session", autouse=True)
def on_one_host():
    """`assert_close` asks of numbers whether they lie on many hosts, and imports torch's tensors that do: 0.7 s."""
    if "torch" in sys.modules:
        from torch.testing import _comparison

        _comparison._HAS_DTENSOR = False


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
