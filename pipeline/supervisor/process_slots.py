"""Where a worker process belongs: its role, and the GPU that it sees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class ProcessSlot:
    """Where a child belongs: its role, and the GPU that it sees (None: as it finds them)."""

    role: str  # ingest or read
    device: str | None = None

    @property
    def name(self) -> str:
        return self.role if self.device is None else f"{self.role}-{self.device}"


def process_slots(role: str, devices: str | None) -> list[ProcessSlot]:
    """`both` and None → a read and an ingest process; `read` and "0,1" → a read process for each GPU.

    Raises:
        UsageError: devices that are no list of GPUs, or given to a role that uses none.
    """
    if devices is None:
        read = [ProcessSlot("read")]
    elif role == "ingest":
        raise UsageError(f"--devices {devices}: only readers use GPUs; leave it out with --role ingest")
    else:
        if "+" in devices:
            raise UsageError(
                f"--devices {devices}: one model is not split over several GPUs (docs/models.md says what that would "
                "take); --quantize int8 or int4 makes it smaller, and 0,1 reads with a whole model on each"
            )
        names = [name.strip() for name in devices.split(",")]
        if not all(re.fullmatch(r"\d+|(GPU|MIG)-[\w-]+", name) for name in names) or len(set(names)) < len(names):
            raise UsageError(f"--devices {devices}: write each GPU once, by number or UUID, like 0,1,2,3")
        read = [ProcessSlot("read", name) for name in names]
    return ([] if role == "ingest" else read) + ([] if role == "read" else [ProcessSlot("ingest")])


def devices_of(slots: Sequence[ProcessSlot]) -> list[str]:
    """The GPUs that were asked for."""
    return [slot.device for slot in slots if slot.device is not None]


def device_variables(devices: Sequence[str]) -> dict[str, str]:
    """What tells a worker process of its GPUs: CUDA, which shows it no others, and its choice of an engine."""
    names = ",".join(devices)
    return {"CUDA_VISIBLE_DEVICES": names, "PAGEPACK_INTERNAL_DEVICE": names}
