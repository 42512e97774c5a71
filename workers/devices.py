"""Whether the GPUs that were asked for are here. Nothing falls back to a CPU where one was asked for."""

from __future__ import annotations

from pipeline.errors import UsageError


def check_devices(asked: str) -> None:
    """`asked` is a list like `0,1`, and CUDA_VISIBLE_DEVICES of this process.

    CUDA shows the devices of that variable up to the first that is not there: of `0,7,1` on a machine with two it shows
    one, and the missing one is the second of the list.

    Raises:
        UsageError: one of them is not there; the message says which, and what would help.
    """
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
    names = asked.split(",")
    num_here = torch.cuda.device_count()
    if num_here < len(names):
        raise UsageError(
            f"--devices {asked}: CUDA finds no GPU {names[num_here]} here; `nvidia-smi -L` lists those that it finds. "
            f"Name one of them, {instead}"
        )
