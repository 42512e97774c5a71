"""What an error of the device means for those who wait: try less, leave one page out, or stop."""

from __future__ import annotations

import re

import torch

# What torch and Triton begin a message of CUDA with; both raise a RuntimeError.
_CUDA = re.compile(r"CUDA (driver )?error|Triton Error \[CUDA\]")
_NO_MEMORY = re.compile(r"out of memory|CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """The device's, also past torch's allocator, or the host allocator's, which raises a bare RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return True
    return bool(_CUDA.search(str(error)) and _NO_MEMORY.search(str(error)))


def is_fatal(error: Exception) -> bool:
    """A CUDA error other than memory leaves the process's context unusable."""
    return not is_out_of_memory(error) and bool(_CUDA.search(str(error)))
