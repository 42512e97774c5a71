"""mistral-inference and mistral-common, imported without their noise.

mistral-inference imports xformers for an attention that pagepack does not use. On a machine whose torch is not the
one xformers was built beside, that import logs a screen of warnings about kernels that nobody here would call.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import UsageError


@contextmanager
def _quietly() -> Iterator[None]:
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


try:
    with _quietly():
        from mistral_inference.args import PATCH_MERGE, TransformerArgs, VisionEncoderArgs
        from mistral_inference.lora import LoRALinear
        from mistral_inference.moe import MoeArgs, MoeLayer
        from mistral_inference.transformer import Transformer
        from mistral_inference.transformer_layers import Attention, FeedForward, RMSNorm, TransformerBlock
except ImportError as error:
    raise UsageError(
        f"the pixtral engine needs {error.name or error}: pip install 'pagepack[pixtral]'",
    ) from error

__all__ = [
    "PATCH_MERGE",
    "Attention",
    "FeedForward",
    "LoRALinear",
    "MoeArgs",
    "MoeLayer",
    "RMSNorm",
    "Transformer",
    "TransformerArgs",
    "TransformerBlock",
    "VisionEncoderArgs",
]
