"""Whether the GPUs that were asked for are here. Nothing falls back to a CPU where one was asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.errors import UsageError

if TYPE_CHECKING:
    import torch

LEAST_CAPABILITY = (8, 0)  # Ampere: bfloat16, asynchronous copies, FlashAttention 2


def check_devices(asked: str) -> None:
    """`asked` is a list like `0,1` or `0+1,2+3`, and its GPUs are in CUDA_VISIBLE_DEVICES of this process.

    CUDA shows the devices of that variable up to the first that is not there: of `0,7,1` on a machine with two it shows
    one, and the missing one is the second of the list.

    Raises:
        UsageError: one of them is not there; the message says which, and what would help.
    """
    names = re.split("[,+]", asked)
    if set(names) == {"cpu"}:
        return
    instead = "or leave --devices out to read on the CPU"
    try:
        import torch
    except ImportError:
        raise UsageError(f"--devices {asked}: torch is not installed; `pip install 'pagepack[pixtral]'`") from None
    if torch.version.cuda is None:
        raise UsageError(
            f"--devices {asked}: this torch ({torch.__version__}) is built without CUDA and sees no GPU; install one "
            f"that is built with CUDA, {instead}"
        )
    num_here = torch.cuda.device_count()
    if num_here < len(names):
        raise UsageError(
            f"--devices {asked}: CUDA finds no GPU {names[num_here]} here; `nvidia-smi -L` lists those that it finds. "
            f"Name one of them, {instead}"
        )
    for number in range(len(names)):
        check_capability(torch.device("cuda", number), names[number])


def check_capability(device: torch.device, asked: str | None = None) -> None:
    """Whether a GPU has what the engine's kernels are written for; `asked` is its number for people.

    Raises:
        UsageError: it is older.
    """
    import torch

    if device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability >= LEAST_CAPABILITY:
        return
    which = "" if asked is None else f" {asked}"
    ways = "CUDA_VISIBLE_DEVICES= hides it, and the CPU reads" if asked is None else "leave --devices out"
    raise UsageError(
        f"the GPU{which} is a {torch.cuda.get_device_name(device)} of compute capability "
        f"{capability[0]}.{capability[1]}; pixtral needs 8.0 or later (A100, RTX 30 and what came after), for bfloat16 "
        f"and FlashAttention. Name another by --devices, or {ways}"
    )
