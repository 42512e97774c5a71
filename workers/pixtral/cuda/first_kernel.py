"""One small kernel before minutes of loading: whether Triton runs here at all.

Triton builds a C module against the GPU's driver, and one for each kernel, when they first run. An image or a
workstation without a compiler or Python's headers has a torch that sees the GPU, and fails at the first step.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from pipeline.errors import UsageError
from workers.pixtral.device_errors import is_out_of_memory


def check_triton(device: torch.device) -> None:
    """Raises UsageError: it does not compile, or what it compiled does not run."""
    try:
        from workers.pixtral.cuda.fused import FusedOperations

        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # Triton takes the current one
            FusedOperations().gate(torch.zeros(1, 64, dtype=torch.bfloat16, device=device))
    except Exception as error:  # of the compiler's process, of Triton's own, of the driver
        if is_out_of_memory(error):
            raise
        what = (str(error) or type(error).__name__).partition("\n")[0]
        raise UsageError(
            f"Triton, which compiles the engine's kernels, does not run on {device} here ({what}). It needs a C "
            "compiler and Python's headers beside the GPU's driver: apt install gcc libc6-dev python3-dev"
        ) from error
