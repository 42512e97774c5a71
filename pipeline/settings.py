"""One frozen `Settings`, read once from flags and `PAGEPACK_*` variables and passed down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.errors import UsageError

EngineName = Literal["auto", "pixtral", "rapidocr"]


class Settings(BaseSettings):
    """Every knob, with its unit in the name. A flag beats its variable, a variable beats the default."""

    model_config = SettingsConfigDict(env_prefix="PAGEPACK_", frozen=True, extra="forbid")

    home: Path = Path("pagepack-data")
    database_url: str | None = None
    broker_url: str | None = None

    engine: EngineName = "auto"
    model: Path | None = None
    text_layer: Literal["keep", "prefer"] = "keep"

    max_side_px: int = Field(1024, ge=64, le=1024, multiple_of=16)  # the vision encoder's table of positions ends here
    max_file_bytes: int = Field(2 * 2**30, gt=0)
    max_pages: int = Field(20_000, gt=0)  # pages of one document
    max_page_pt: int = Field(7_200, gt=0)  # 100 inches; PDF's own limit is 14,400
    max_image_pixels: int = Field(250_000_000, gt=0)  # a decoded image above this is a bomb: 750 MB in RGB
    rasterize_seconds: float = Field(30.0, gt=0)  # wall clock of one page
    rasterize_memory_bytes: int = Field(2 * 2**30, gt=0)  # address space of the process that opens files
    ingest_processes: int | None = Field(None, ge=1)  # default: half the cores
    max_waiting_pages: int = Field(2_000, ge=1)  # ingest holds back above this; bounds page images in flight

    lease_seconds: float = Field(60.0, gt=0)
    heartbeat_seconds: float = Field(15.0, gt=0)
    sweep_seconds: float = Field(10.0, gt=0)
    page_seconds: float = Field(600.0, gt=0)  # deadline for reading one page
    grace_seconds: float = Field(20.0, ge=0)  # after SIGTERM, pages in the engine may finish this long
    max_attempts: int = Field(3, ge=1)
    max_crashes: int = Field(3, ge=1)  # times a page may be in flight when its worker dies


def is_setting(variable: str) -> bool:
    """Whether a variable is meant for `Settings`; PAGEPACK_INTERNAL_* pass between pagepack's own processes."""
    return variable.startswith("PAGEPACK_") and not variable.startswith("PAGEPACK_INTERNAL_")


def load_settings(**flags: object) -> Settings:
    """Settings from flags (None means: not given), then the environment, then defaults.

    Raises:
        UsageError: a value does not fit; the message names its variable.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    known = {f"PAGEPACK_{name}".upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        if is_setting(variable) and variable not in known:
            raise UsageError(f"{variable} is not a setting of pagepack; known are {', '.join(sorted(known))}")
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise UsageError(
            f"PAGEPACK_{name.upper()} (or its flag): {first['msg']}, got {first.get('input')!r}"
        ) from error
