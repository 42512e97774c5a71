"""What is known of models that run behind such servers: how large an image they take, and how they want to be asked.

An entry is found by the model's name there, or named by PAGEPACK_ENDPOINT_PROFILE. A model that was trained to read
pages with one prompt is asked `ocr` with that one, word for word, and nothing else; a model that follows instructions
is asked as pagepack asks. Where a field is None, the model's publisher says nothing, and pagepack's own holds.

All that shapes an answer is hashed into `Entry.version`, which is part of the answer's fingerprint: an entry that
changes gives new versions of answers, beside the old ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One family of models. `source` is where its publisher says so."""

    name: str
    pattern: str  # a regular expression, found in the model's name in small letters
    source: str
    max_side_px: int | None = None  # of an image's long side; the server would shrink it anyway
    max_pixels: int | None = None
    is_tiled: bool = False  # a page larger than that goes as the whole page and tiles, as with the engine pixtral
    ocr_prompt: str | None = None  # in place of ours; "" sends the image alone
    is_text_first: bool = False  # the prompt stands before the image
    reads_only: bool = False  # it answers `ocr` and nothing else
    max_tokens: int | None = None  # of an answer to `ocr`
    temperature: float | None = None  # for `ocr`
    top_p: float | None = None
    has_front_matter: bool = False  # answers begin with YAML about the page between two lines of ---
    extra: dict[str, Any] = field(default_factory=dict)  # further fields of a request

    @cached_property
    def version(self) -> str:
        """Of what shapes an answer: the same facts, the same version."""
        facts = {name: value for name, value in dataclasses.asdict(self).items() if name not in ("pattern", "source")}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


_OLMOCR = (  # with its own spelling: the model was trained on these very tokens
    "Attached is one page of a document that you must process. Just return the plain text representation of this "
    "document as if you were reading it naturally. Convert equations to LateX and tables to HTML.\n"
    "If there are any figures or charts, label them with the following markdown syntax "
    "![Alt text describing the contents of the figure](page_startx_starty_width_height.png)\n"
    "Return your output as markdown, with a front matter section on top specifying values for the primary_language, "
    "is_rotation_valid, rotation_correction, is_table, and is_diagram parameters."
)

_LIGHTON = "https://github.com/lightonai/LightOnOCR: lightonocr/models.py, client.py"
# A top_p of 1 is said, for vLLM takes one that is left out from the checkpoint's generation_config.json.
_LIGHTON_3: dict[str, Any] = {"top_p": 1.0, "chat_template_kwargs": {"enable_thinking": False}}

ENTRIES = (
    Entry(
        "olmocr",
        r"olmocr",
        "https://github.com/allenai/olmocr: olmocr/prompts/prompts.py (build_no_anchoring_v4_yaml_prompt), pipeline.py",
        max_side_px=1288,
        ocr_prompt=_OLMOCR,
        is_text_first=True,
        reads_only=True,
        max_tokens=8000,
        temperature=0.1,
        has_front_matter=True,
    ),
    Entry(
        "lightonocr-3-1b",
        r"lighton-?ocr-3-1b",
        _LIGHTON,
        max_side_px=1540,
        ocr_prompt="",
        reads_only=True,
        temperature=0.2,
        extra=_LIGHTON_3,
    ),
    Entry(
        "lightonocr-3",
        r"lighton-?ocr-3",
        _LIGHTON,
        max_side_px=2048,
        ocr_prompt="",
        reads_only=True,
        temperature=0.2,
        extra=_LIGHTON_3,
    ),
    Entry(
        "lightonocr",
        r"lighton-?ocr",
        _LIGHTON,
        max_side_px=1540,
        ocr_prompt="",
        reads_only=True,
        temperature=0.2,
        top_p=0.9,
    ),
    Entry(
        "paddleocr-vl",
        r"paddleocr-?vl",
        "https://github.com/vllm-project/recipes: PaddlePaddle/PaddleOCR-VL.md; preprocessor_config.json of "
        "https://huggingface.co/PaddlePaddle/PaddleOCR-VL",
        max_pixels=2_822_400,
        ocr_prompt="OCR:",
        reads_only=True,
        temperature=0.0,
    ),
    Entry(
        "dots-ocr",
        r"dots[.-]m?ocr",
        "https://github.com/rednote-hilab/dots.ocr: dots_ocr/utils/prompts.py (prompt_ocr), utils/consts.py, "
        "model/inference.py",
        max_pixels=11_289_600,
        # The marks stand for the image; without them vLLM puts a line end before the prompt.
        ocr_prompt="<|img|><|imgpad|><|endofimg|>Extract the text content from this image.",
        reads_only=True,
        max_tokens=16_384,
        temperature=0.1,
        top_p=0.9,
    ),
    Entry(
        "deepseek-ocr",
        r"deepseek-?ocr",
        "https://github.com/vllm-project/recipes: DeepSeek/DeepSeek-OCR.md, DeepSeek-OCR-2.md; "
        "https://github.com/deepseek-ai/DeepSeek-OCR: README.md, DeepSeek-OCR-master/DeepSeek-OCR-vllm/config.py",
        ocr_prompt="Free OCR.",
        reads_only=True,
        max_tokens=6144,  # of its 8,192; a page's image takes at most some 1,150
        temperature=0.0,
        extra={
            "skip_special_tokens": False,
            "vllm_xargs": {"ngram_size": 30, "window_size": 90, "whitelist_token_ids": [128821, 128822]},
        },
    ),
    Entry(
        "llama-3.2-vision",
        r"llama-?3[.-]2-(11|90)b|llama3\.2-vision",
        "https://huggingface.co/meta-llama/Llama-3.2-11B-Vision-Instruct: preprocessor_config.json, 4 tiles of 560 px",
        max_side_px=1120,
    ),
    Entry(
        "llava-onevision",
        r"llava-?onevision",
        "https://huggingface.co/llava-hf/llava-onevision-qwen2-7b-ov-hf: config.json, grids up to 6 × 6 of 384 px",
        max_side_px=2304,
    ),
    Entry(
        "qwen2-vl",
        r"qwen2-?vl",
        "https://huggingface.co/Qwen/Qwen2-VL-7B-Instruct: preprocessor_config.json, 16,384 tokens of 28 × 28 px",
        max_pixels=12_845_056,
    ),
    Entry(
        "pixtral",
        r"pixtral",
        "https://huggingface.co/mistralai/Pixtral-12B-2409: params.json, image_size",
        max_side_px=1024,
        is_tiled=True,
    ),
)

GENERAL = Entry("general", r"", "a guess of pagepack's own: hosted models shrink what is larger", max_side_px=2048)
"""Of a model that no entry knows."""

MISTRAL_OCR = Entry("mistral-ocr", r"", "https://docs.mistral.ai/api/endpoint/ocr", reads_only=True)
"""Of what answers at /ocr, whatever it is called."""

_NAMES = {entry.name: entry for entry in (*ENTRIES, GENERAL)}


def entry_of(model: str, profile: str | None = None) -> Entry:
    """By `profile` where it is given, else by the model's name.

    Raises:
        UsageError: there is no such profile.
    """
    if profile is None:
        return next((entry for entry in ENTRIES if re.search(entry.pattern, model.lower())), GENERAL)
    if profile not in _NAMES:
        near = did_you_mean(profile, _NAMES) or f"; known are {', '.join(_NAMES)}"
        raise UsageError(f"PAGEPACK_ENDPOINT_PROFILE is {profile!r}{near}")
    return _NAMES[profile]


def without_front_matter(text: str) -> tuple[str, dict[str, str]]:
    """A page's text, and what stood before it as `key: value` between two lines of ---."""
    found = re.match(r"---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    if found is None:
        return text, {}
    lines = (line.partition(":") for line in found[1].splitlines() if ":" in line)
    return text[found.end() :].lstrip("\n"), {key.strip(): value.strip() for key, _, value in lines}


_DATED = re.compile(r"[-@](\d{3,4}|\d{6}|\d{8}|\d{4}-\d{2}-\d{2})(-[a-z]+)?")


def is_same_model(asked: str, served: str) -> bool:
    """Whether a server that says `served` answered as the model that was asked for.

    Its name alone, whatever folder stands before it; and a name without a date stands for that with one.

    >>> is_same_model("mistral-ocr-latest", "mistral-ocr-2505"), is_same_model("llava-7b", "llava-72b")
    (True, False)
    """
    one, other = (name.rstrip("/").rpartition("/")[2].lower() for name in (asked, served))
    stem = one.removesuffix("-latest")
    return other == one or (other.startswith(stem) and _DATED.fullmatch(other[len(stem) :]) is not None)
