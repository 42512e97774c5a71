"""One frozen `Settings`, read once and passed down. Where each value comes from, the first that has it:

    a flag            --home
    a variable        PAGEPACK_HOME, or for a URL the file that PAGEPACK_…_URL_FILE names
    a file            pagepack.toml in the working folder, then the one in the home folder
    the default

A process that pagepack starts gets the whole as variables, and reads no file: its working folder may be another.

Longer than most modules, for more than half of it is the table of settings, which people look through in one place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import UsageError, did_you_mean, redacted
from pipeline.settings.file import FILE_NAME, Given, read_settings_file
from pipeline.settings.misfit import misfit
from pipeline.urls import has_credentials, secrets_masked


def _(default: Any, description: str, **limits: Any) -> Any:
    return Field(default, description=description, **limits)


EngineName = Literal["auto", "pixtral", "rapidocr", "tesseract", "endpoint"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
_KEYS = ("_key", "_token")  # how settings end that are secret as a whole
_PLACES = ("home", "model", "ocr_models", "images_url", "inputs_url")  # paths, or URLs


class Settings(BaseModel):
    """Every knob, with its unit in the name."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    home: Path = _(Path("pagepack-data"), "folder of the database, page images and logs")
    database_url: str | None = _(None, "a PostgreSQL server instead of SQLite in the home folder", repr=False)
    broker_url: str | None = _(None, "a Redis, Valkey or RabbitMQ server instead of the embedded one", repr=False)

    images_url: str | None = _(
        None, "where page images lie, such as s3://bucket/images; default images/ in the home", repr=False
    )
    inputs_url: str | None = _(None, "local files are copied here for workers that do not see their paths", repr=False)
    keep_images: str = _("keep", "page images: keep, until-read, or a number of days; a freed one is drawn again")

    engine: EngineName = _("auto", "auto takes pixtral where a model folder is set, else rapidocr")
    model: Path | None = _(None, "a checkpoint folder in Mistral's format")
    ocr_language: str | None = _(
        None, "what is read: Tesseract's names, as rus+eng, or one of RapidOCR's, as cyrillic; default English, Latin"
    )
    ocr_models: Path | None = _(None, "a folder with further recognizers of RapidOCR's, by language")
    fast: bool = _(False, "rapidocr reads with the smallest models: less processor time, some more errors")
    ocr_runtime: Literal["onnxruntime", "openvino"] = _(
        "onnxruntime", "what computes rapidocr's models: openvino takes less time where the processor has bfloat16"
    )
    text_layer: Literal["auto", "keep", "prefer", "always", "hint"] | None = _(
        None,
        "a PDF page's own text: auto and prefer take it where it is sound, always in any case, keep never, hint tells "
        "it the model; default auto for rapidocr, else keep",
    )

    endpoint_url: str | None = _(None, "engine endpoint: a server as OpenAI's, by its base, such as https://host/v1")
    endpoint_model: str | None = _(None, "the model's name there")
    endpoint_key: str | None = _(None, "the key for it; no option of a command, which others could see", repr=False)
    endpoint_kind: Literal["chat", "mistral-ocr", "mistral-batch"] = _(
        "chat", "chat asks for completions, mistral-ocr asks /ocr, and mistral-batch the same in jobs of many pages"
    )
    endpoint_batch_pages: int = _(
        500, "pages of a job of mistral-batch at most, and in a worker's hand", ge=1, le=10_000
    )
    endpoint_profile: str | None = _(None, "how it is asked: an entry of docs/endpoint.md; default by the model's name")
    endpoint_concurrency: int = _(
        32, "requests at once at most, of each worker; fewer as the server bears", ge=1, le=1024
    )
    endpoint_seconds: float = _(300.0, "an answer that takes longer is asked for again", gt=0)
    endpoint_image: Literal["png", "jpeg"] = _("png", "how page images are sent; jpeg, of quality 90, is smaller")
    endpoint_max_side_px: int | None = _(None, "long side of an image that is sent; default the model's own", ge=64)
    endpoint_body: str | None = _(
        None, 'JSON laid over each request, as {"seed": 1}; a field that is null is left out of it'
    )

    endpoint_input_price: float | None = _(None, "of a million tokens of image and prompt, in any currency", ge=0)
    endpoint_output_price: float | None = _(None, "of a million tokens of answers", ge=0)
    endpoint_page_price: float | None = _(None, "of a thousand pages, where a server charges so, as /ocr does", ge=0)
    max_cost: float | None = _(None, "a batch is read until it has cost so much, by these prices", gt=0)

    judge_url: str | None = _(None, "of `eval mm-mt-bench`: the judge's server, as PAGEPACK_ENDPOINT_URL")
    judge_model: str | None = _(None, "the judge's name there")
    judge_key: str | None = _(None, "the key for it; no option of a command, which others could see", repr=False)

    blank_pages: Literal["skip", "read"] = _(
        "skip", "skip answers a page that is blank by its picture with nothing; read asks the engine, too"
    )

    turn_pages: bool = _(
        True, "pages on their side, on their head or askew are turned before pixtral or endpoint sees them"
    )

    drafts: Literal["auto", "off"] = _(
        "auto",
        "auto lets pixtral try what is known of a page, for the same text sooner (GPU: near ties apart); off does not",
    )

    quantize: Literal["off", "int8", "int4", "fp8", "auto"] = _(
        "off", "narrower weights of pixtral's decoder: int8, int4, fp8 on Ada and Hopper; auto the widest with room"
    )

    kv_cache: Literal["model", "fp8", "auto"] = _(
        "model", "pixtral's cache: model is the model's own type; fp8 on Ada and Hopper; auto fp8 where it gains room"
    )

    detail: str = _("auto", "size of page images: auto follows the print, page is 1,024 px, a number the long side")
    max_side_px: int = _(8192, "long side of a page image at most", ge=64, le=32_768, multiple_of=16)
    max_page_pixels: int = _(
        16_777_216, "pixels of a page image at most: 4,096 × 4,096, A1 at 145 dpi", ge=4096, le=268_435_456
    )
    max_file_bytes: int = _(2 * 2**30, "a larger file is rejected", gt=0)
    attachments: bool = _(False, "files that are attached to PDFs are documents of their own")
    office: Literal["auto", "text"] = _(
        "auto", "auto lets LibreOffice draw office documents where it is installed; text shows what they carry"
    )
    office_seconds: float = _(120.0, "wall clock that LibreOffice has for a document", gt=0)
    max_container_members: int = _(100_000, "an archive is read up to so many members, folders too", gt=0)
    max_container_bytes: int = _(16 * 2**30, "an archive is read until so much of it is unpacked", gt=0)
    max_container_depth: int = _(4, "archives in archives are read so deep", gt=0)
    max_pages: int = _(20_000, "a longer document is rejected", gt=0)
    max_page_pt: int = _(7_200, "a wider or higher page fails: 100 inches, PDF's own limit is 14,400", gt=0)
    max_image_pixels: int = _(250_000_000, "a larger image fails: 750 MB decoded", gt=0)
    all_frames: bool = _(False, "of an animated GIF, WebP or PNG, or several pictures in one JPEG: all, not the first")
    rasterize_seconds: float = _(30.0, "wall clock to draw one page", gt=0)
    rasterize_memory_bytes: int = _(2 * 2**30, "address space of the process that opens files", gt=0)
    ingest_processes: int | None = _(None, "documents drawn side by side; default half the cores", ge=1)
    max_waiting_pages: int = _(2_000, "ingest holds back above this, of all batches; each has its share", ge=1)

    lease_seconds: float = _(60.0, "a worker that is silent so long loses its pages", gt=0)
    sweep_seconds: float = _(10.0, "how often expired leases are looked for", gt=0)
    page_seconds: float = _(600.0, "deadline to read one page", gt=0)
    grace_seconds: float = _(20.0, "after a stop, pages in the engine may finish so long", ge=0)
    max_answer_tokens: int = _(
        8_192, "the longest Pixtral answer, where the prompt sets no length; 4,096 is what one usually needs", ge=1
    )
    max_attempts: int = _(3, "tries at a page that fails for a reason that may pass", ge=1)
    max_crashes: int = _(3, "times a page may be in flight when its worker dies", ge=1)

    log_format: Literal["text", "json"] = _("text", "json writes one object a line")
    log_level: LogLevel = _("INFO", "DEBUG also says each page that was claimed, read and stored")
    metrics_port: int | None = _(None, "where `pagepack worker` serves /metrics, /healthz and /readyz", ge=0, le=65535)
    metrics_host: str = _("127.0.0.1", "the address that they are served at")
    serve_token: str | None = _(None, "what `pagepack serve` asks of every browser and program", repr=False)
    max_upload_bytes: int = _(2 * 2**30, "of one request to `pagepack serve --allow-upload`; more is refused", gt=0)
    celery_events: bool = _(False, "workers send Celery's events and answer its remote control, as Flower needs")

    @field_validator("broker_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and "://" not in value:
            raise ValueError("not a URL like redis://host:6379/0")
        return value

    @field_validator("inputs_url")
    @classmethod
    def _has_no_secret(cls, url: str | None) -> str | None:
        if url is not None and has_credentials(url):  # the database stores where each copy lies
            raise ValueError("holds a password; give it as AWS_SECRET_ACCESS_KEY or FSSPEC_<PROTOCOL>_PASSWORD")
        return url

    @field_validator("endpoint_url", "judge_url")
    @classmethod
    def _is_server_url(cls, url: str | None) -> str | None:
        if url is not None:
            if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", url):
                raise ValueError(
                    "holds a password; give it as PAGEPACK_ENDPOINT_KEY"
                    if has_credentials(url)
                    else "is no URL like https://host/v1"
                )
            return url.rstrip("/")
        return url

    @field_validator("endpoint_body")
    @classmethod
    def _is_object(cls, text: str | None) -> str | None:
        if text is not None:
            import json

            try:
                is_object = isinstance(json.loads(text), dict)
            except ValueError:
                is_object = False
            if not is_object:
                raise ValueError('no JSON object like {"seed": 1}')
        return text

    @field_validator("endpoint_key", "judge_key", "serve_token")
    @classmethod
    def _is_key(cls, key: str | None) -> str | None:
        if key is not None and not re.fullmatch(r"[!-~]+", key):
            raise ValueError("is empty, or holds what no header may; is there a space or a line end in it?")
        return key

    @field_validator("keep_images")
    @classmethod
    def _is_retention(cls, value: str) -> str:
        if value not in ("keep", "until-read"):
            try:
                is_days = 0 < float(value) < 100_000
            except ValueError:
                is_days = False
            if not is_days:
                raise ValueError("neither keep, nor until-read, nor a number of days above 0")
        return value

    @field_validator("detail", mode="before")
    @classmethod
    def _is_detail(cls, value: object) -> str:
        text = str(value)
        if text in ("auto", "page"):
            return text
        if not text.isdecimal() or not 64 <= int(text) <= 32_768:
            raise ValueError("neither auto, nor page, nor a number of pixels from 64 to 32768")
        return str(int(text))

    @field_validator("database_url")
    @classmethod
    def _is_server(cls, value: str | None) -> str | None:
        if value is not None:
            from pipeline.urls import server_url

            server_url(value)
        return value

    @field_validator(*_PLACES, mode="before")
    @classmethod
    def _is_given(cls, path: object) -> object:
        if path == "":  # else the current folder would be meant
            raise ValueError("is empty; is a shell variable unset?")
        return path

    @property
    def keep_images_days(self) -> float | None:
        """None where images are kept, or freed as soon as they are read."""
        return None if self.keep_images in ("keep", "until-read") else float(self.keep_images)

    @property
    def heartbeat_seconds(self) -> float:
        """How often a worker renews its leases: three beats may fail before one runs out."""
        return self.lease_seconds / 4


WHOLE = "PAGEPACK_INTERNAL_SETTINGS"
"""A variable that tells a process of ours: the others are all that there is; read no file."""


def is_setting(variable: str) -> bool:
    """Whether a variable is meant for `Settings`; PAGEPACK_INTERNAL_* pass between pagepack's own processes."""
    return variable.startswith("PAGEPACK_") and not variable.startswith("PAGEPACK_INTERNAL_")


def load_settings(**flags: object) -> Settings:
    """Settings from flags (None means: not given), and from wherever else they come.

    Raises:
        UsageError: a value does not fit, or a name is not known; the message says where it stands. Or a flag is for
            another engine.
    """
    given = _gather(flags)
    settings = _build(given)
    _check_runtime(settings, flags.get("ocr_runtime"))
    return settings


def explain_settings(**flags: object) -> list[tuple[str, Any, str]]:
    """Each setting's name, its value without a password, and where it comes from. Raises as `load_settings`."""
    given = _gather(flags)
    values = _build(given).model_dump(mode="json")
    return [
        (name, _shown(name, value), given[name].origin if name in given else "default")
        for name, value in values.items()
    ]


def _shown(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if name.endswith(_KEYS):
        return "***"
    return redacted(value) if Settings.model_fields[name].repr else secrets_masked(value)


def _gather(flags: Mapping[str, object]) -> dict[str, Given]:
    given = _from_variables()
    for name, value in flags.items():
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            given[name] = Given(value, flag, flag)
    if WHOLE in os.environ:
        return given
    names = Settings.model_fields.keys()
    given = read_settings_file(Path(), names, _PLACES) | given
    home = Path(str(given["home"].value)) if "home" in given else Settings.model_fields["home"].default
    with suppress(OSError):  # a home that is not made yet has no file
        if os.path.samefile(home, "."):
            return given
    there = read_settings_file(home, names, _PLACES)
    if "home" in there:
        way_out = f"write it into the {FILE_NAME} of the working folder, or set PAGEPACK_HOME or --home"
        raise UsageError(f"{there['home'].label} is set, and the file lies in a home already; {way_out}")
    return there | given


def _from_variables() -> dict[str, Given]:
    # Not through pydantic-settings: every process of a run would take a seventh of a second to import it.
    variables = {f"PAGEPACK_{name}".upper(): name for name in Settings.model_fields}
    from_files = _secrets_in_files()
    for variable in sorted(os.environ.keys() - {f"{name}_FILE" for name in from_files}):
        if is_setting(variable) and variable not in variables:
            # By what follows the prefix, which all share; else they would all be near.
            near = did_you_mean(
                variable.removeprefix("PAGEPACK_").upper(), [name.upper() for name in Settings.model_fields]
            )
            way_out = near.replace("mean ", "mean PAGEPACK_") or f"; known are {', '.join(sorted(variables))}"
            raise UsageError(f"{variable} is not a setting of pagepack{way_out}")
    given = {
        name: Given(os.environ[variable], variable, variable)
        for variable, name in variables.items()
        if variable in os.environ
    }
    for variable, (path, url) in from_files.items():
        given[variables[variable]] = Given(url, f"{variable}_FILE ({path})", f"{variable}_FILE ({path})")
    return given


def _secrets_in_files() -> dict[str, tuple[str, str]]:
    """Variable → file and value of the settings that may hold a password and are named by PAGEPACK_…_FILE, as
    containers do."""
    found = {}
    for variable in (f"PAGEPACK_{name}".upper() for name, field in Settings.model_fields.items() if not field.repr):
        if (path := os.environ.get(f"{variable}_FILE")) is None:
            continue
        if variable in os.environ:
            raise UsageError(f"{variable} and {variable}_FILE are both set; unset one of them")
        try:
            url = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise UsageError(f"{variable}_FILE names {path}, which cannot be read: {reason}") from None
        if not url:
            what = next((end for end in _KEYS if variable.lower().endswith(end)), "_URL").lstrip("_")
            raise UsageError(f"{variable}_FILE names {path}, which is empty; write the {what} into it")
        found[variable] = (path, url)
    return found


def _build(given: Mapping[str, Given]) -> Settings:
    values: dict[str, Any] = {name: one.value for name, one in given.items()}
    with suppress(FileNotFoundError):  # the working folder is gone, and nothing can be made there
        values.setdefault("home", Path(Settings.model_fields["home"].default).absolute())
    try:
        settings = Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        is_secret = name.endswith(("_url", *_KEYS))
        raise UsageError(f"{given[name].label}{misfit(first, is_secret=is_secret)}") from None
    if os.path.exists(settings.home) and not os.path.isdir(settings.home):
        label = given["home"].label if "home" in given else "the default home"
        raise UsageError(f"{label}: {settings.home} is a file; choose a folder")
    return settings


def _check_runtime(settings: Settings, asked: object) -> None:
    """A flag that no engine would go by is refused; a variable or a file may be there for other commands."""
    engine = "pixtral" if settings.engine == "auto" and settings.model else settings.engine
    if asked is None or engine in ("auto", "rapidocr"):
        return
    why = "a model folder is set" if settings.engine == "auto" else f"--engine {engine}"
    raise UsageError(
        f"--ocr-runtime {asked}: it chooses what computes rapidocr's models, and {engine} reads ({why}); leave it out, "
        "or read with --engine rapidocr. The setting PAGEPACK_OCR_RUNTIME may stay, for other engines pass it over"
    )
