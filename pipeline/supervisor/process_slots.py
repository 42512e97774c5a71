"""Where a worker process belongs: its role, and the GPU, or the two, that it sees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class ProcessSlot:
    """Where a child belongs: its role, and the GPU that it sees, or two as `0+1` (None: as it finds them)."""

    role: str  # ingest or read
    device: str | None = None

    @property
    def name(self) -> str:
        return self.role if self.device is None else f"{self.role}-{self.device}"


def process_slots(role: str, devices: str | None) -> list[ProcessSlot]:
    """`both` and None → a read and an ingest process; `read` and "0,1" → a read process for each GPU.

    "0+1,2+3" → a read process for each two, over which it has one model. "cpu+cpu" is the same on this machine's CPU.

    Raises:
        UsageError: devices that are no list of GPUs, or given to a role that uses none.
    """
    if devices is None:
        read = [ProcessSlot("read")]
    elif role == "ingest":
        raise UsageError(f"--devices {devices}: only readers use GPUs; leave it out with --role ingest")
    else:
        groups = [[name.strip() for name in group.split("+")] for group in devices.split(",")]
        names = [name for group in groups for name in group]
        are_gpus = all(re.fullmatch(r"\d+|(GPU|MIG)-[\w-]+", name) for name in names) and len(set(names)) == len(names)
        if not are_gpus and groups != [["cpu", "cpu"]]:
            raise UsageError(
                f"--devices {devices}: write each GPU once, by number or UUID, like 0,1,2,3, or two for a "
                "model over both, like 0+1"
            )
        if {len(group) for group in groups} not in ({1}, {2}):
            raise UsageError(
                f"--devices {devices}: a model is on one GPU or over two, and so are all, like 0,1,2,3 or 0+1,2+3"
            )
        read = [ProcessSlot("read", "+".join(group)) for group in groups]
    return ([] if role == "ingest" else read) + ([] if role == "read" else [ProcessSlot("ingest")])


def devices_of(slots: Sequence[ProcessSlot]) -> list[str]:
    """The GPUs that were asked for."""
    return [slot.device for slot in slots if slot.device is not None]


def device_variables(devices: Sequence[str]) -> dict[str, str]:
    """What tells a worker process of its GPUs: CUDA, which shows it no others, and its choice of an engine."""
    names = ",".join(devices)
    gpus = [name for name in re.split("[,+]", names) if name != "cpu"]
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "PAGEPACK_INTERNAL_DEVICE": names}
