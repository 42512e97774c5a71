"""What `pagepack verify` finds: numbers for each page, a verdict, and all of it as JSON that can be sent.

Two computations of the same sums in another order differ in their last digits, and where two tokens are nearly equally
likely another one may be chosen. So a page agrees where its logits differ by no more than the type allows, and each
unequal token was nearly as likely as the other. On a CPU a page alone and in company must be equal, bit for bit.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import __version__
from pipeline.errors import UsageError
from pipeline.settings import Settings
from workers.verify.packed import Packed, Reading, read_packed
from workers.verify.pages import drawn_pages, pages_of
from workers.verify.reference import NotHere, read_reference, version

ASKED = "PAGEPACK_INTERNAL_VERIFY"

FULL, HALF = (0.01, 0.001), (0.15, 0.02)
"""The largest and the mean difference of logits, as shares of their own spread, after LAYERS layers of float32, and of
bfloat16 or float16. The small reader, of 8 layers in bfloat16, comes to 0.07 and 0.014 at most; with twice its
rope_theta to 0.12 and 0.027 at least."""
LAYERS = 8  # of both towers; errors add up as the root of their number


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two computations of one answer agree."""

    tokens: int
    tokens_equal: int
    largest_difference: float  # of logits
    mean_difference: float
    spread: float  # standard deviation of the other's logits
    far_tokens: int  # unequal, and not nearly as likely
    agrees: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "tokens_equal": self.tokens_equal,
            "largest_difference": round(self.largest_difference, 6),
            "mean_difference": round(self.mean_difference, 6),
            "spread_of_logits": round(self.spread, 4),
            "far_tokens": self.far_tokens,
            "agrees": self.agrees,
        }


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Shares of the logits' spread."""

    largest: float
    mean: float

    @classmethod
    def of(cls, dtype: torch.dtype, layers: int) -> Tolerance:
        largest, mean = HALF if dtype.itemsize == 2 else FULL
        more = (layers / LAYERS) ** 0.5
        return cls(largest * more, mean * more)


def compare(ours: Tensor, theirs: Tensor, tolerance: Tolerance) -> Agreement:
    """Logits beside the same tokens, (T, V) each; the token of a row is its largest."""
    rows = min(len(ours), len(theirs))
    one, other = ours[:rows].double(), theirs[:rows].double()
    difference, spread = (one - other).abs(), float(other.std())
    chosen, wanted = one.argmax(-1), other.argmax(-1)
    lost = other.gather(1, wanted[:, None]) - other.gather(1, chosen[:, None])
    far = int(((lost.squeeze(1) > 2 * tolerance.largest * spread) & (chosen != wanted)).sum())
    largest, mean = float(difference.max()), float(difference.mean())
    agrees = largest <= tolerance.largest * spread and mean <= tolerance.mean * spread and not far
    return Agreement(rows, int((chosen == wanted).sum()), largest, mean, spread, far, agrees)


def run(settings: Settings) -> dict[str, Any]:
    """Everything, as JSON. Raises UsageError: no model, or it does not serve here; no page."""
    asked = json.loads(os.environ.get(ASKED, "{}"))
    if settings.model is None:
        raise UsageError("pagepack verify needs a checkpoint: --model DIR")
    began = time.monotonic()
    count, paths = int(asked.get("pages", 6)), [Path(path) for path in asked.get("paths", [])]
    pages = pages_of(paths, count, settings) if paths else drawn_pages(count)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    packed = read_packed(settings.model, device, pages, int(asked.get("tokens", 32)))
    seconds_packed = time.monotonic() - began
    reference: dict[str, Any] = {"state": "read", "version": version(), "reason": None}
    theirs: list[tuple[list[int], Tensor]] = []
    try:
        theirs = read_reference(settings.model, device, packed.dtype, packed.alone)
    except NotHere as error:
        reference |= {"state": "not here", "reason": str(error)}
    found = [_page(packed, number, theirs, device) for number in range(len(pages))]
    reasons = [reason for page in found for reason in page["reasons"]]
    return {
        "verdict": "differs" if reasons else "agrees" if theirs else "agrees with itself",
        "reasons": reasons,
        "model": _model(settings.model),
        "dtype": str(packed.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {platform.machine()}",
        "path": packed.path,
        "sequences_at_once": packed.sequences_at_once,
        "tolerance": asdict(Tolerance.of(packed.dtype, packed.layers)),
        "pagepack": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "reference": reference,
        "pages": found,
        "seconds": round(time.monotonic() - began, 1),
        "seconds_packed": round(seconds_packed, 1),
    }


def _model(folder: Path) -> str:
    from workers.engines.pixtral import fingerprint

    return fingerprint(folder)


def _page(packed: Packed, number: int, theirs: list[tuple[list[int], Tensor]], device: torch.device) -> dict[str, Any]:
    one, other, tolerance = packed.alone[number], packed.company[number], Tolerance.of(packed.dtype, packed.layers)
    company = _in_company(one, other, tolerance)
    is_bitwise = one.tokens == other.tokens and torch.equal(one.logits, other.logits)
    page: dict[str, Any] = {
        "name": one.page.name if one.page.is_drawn else f"file {number + 1}",
        "width_px": one.page.pixels.shape[1],
        "height_px": one.page.pixels.shape[0],
        "prompt_tokens": len(one.prompt),
        "finish_reason": one.finish_reason,
        "alone_and_in_company": company.as_json() | {"bitwise": is_bitwise},
        "reference": None,
        "reasons": [],
        **({"text": one.text} if one.page.is_drawn else {}),
    }
    if not (is_bitwise if device.type == "cpu" else company.agrees):
        page["reasons"].append(f"{page['name']}: alone and in company it is not the same")
    if theirs:
        prompt, logits = theirs[number]
        agreement = compare(one.logits, logits, tolerance)
        page["reference"] = agreement.as_json() | {"prompt_equal": prompt == one.prompt}
        if prompt != one.prompt:
            page["reasons"].append(f"{page['name']}: mistral-common lays its prompt out in other tokens")
        elif not agreement.agrees:
            page["reasons"].append(f"{page['name']}: mistral-inference computes other logits")
    return page


def _in_company(one: Reading, other: Reading, tolerance: Tolerance) -> Agreement:
    """Up to the first token that differs: what follows is another text."""
    same = next((at for at, pair in enumerate(zip(one.tokens, other.tokens, strict=False)) if len(set(pair)) > 1), None)
    rows = min(len(one.logits), len(other.logits)) if same is None else same + 1
    return compare(one.logits[:rows], other.logits[:rows], tolerance)
