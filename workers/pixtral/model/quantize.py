"""Narrow weights for the decoder's layers: half or a quarter of the memory, and on most devices less time a token.

Eleven of Pixtral 12B's 12.7 billion numbers are the products of its decoder's layers. Those are kept narrow; norms, the
table of tokens, the head and all that looks at the page keep the checkpoint's own type, for they are few and a page's
first features decide everything after them.

    int8    a row of the weight: 8 bits a number and one scale, the largest of the row being 127; the rows that are
            multiplied with it become 8 bits each in the same way, at the moment. All sums are those of whole numbers,
            which are exact: a row's floats do not depend on what stands beside it, whatever kernel computes it
    int4    64 numbers of a row: 4 bits a number, a scale and an offset in bfloat16; multiplied in bfloat16
    fp8     as int8 with e4m3 in the place of whole numbers, on GPUs that multiply it (Ada, Hopper and later)

Worked, int8: the weights (0.5, -1.0) have the scale 1.0 / 127 and become (64, -127); the row (3, 1) has 3 / 127 and
becomes (127, 42). 64 · 127 - 127 · 42 = 2,794; 2,794 · 1.0 / 127 · 3 / 127 = 0.52, and 0.5 without.

Dettmers et al. 2022, "LLM.int8()", arXiv:2208.07339, section 2 (vector-wise); Yao et al. 2022, "ZeroQuant",
arXiv:2206.01861, section 4 (a scale for each token).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UsageError
from pipeline.planning.shapes import INT4_GROUP, fits_int4, narrow_bytes
from pipeline.planning.step_room import NARROW_ROWS
from workers.pixtral.model.decoder import Decoder
from workers.pixtral.model.instructions import multiplies_whole_numbers
from workers.pixtral.model.layers import Attention, FeedForward, Product

FEW_ROWS = 16  # up to here the kernel of four bits is the faster one on a CPU; above it, widening the weight first
WIDENED = 256  # outputs of a weight of four bits that are wide at once on a CPU: 5,120 × 256 numbers, 2.6 MB
LEAST_ROWS = 17  # that torch._int_mm takes on a GPU
TINY = 1e-30  # a row of zeros has a scale, too
E4M3_MAX = 448.0


class Int8(Product):
    """8 bits a number, and products of 8 bits."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__(*weight.shape)
        self.dtype, self.nbytes = dtype, narrow_bytes("int8", *weight.shape)
        wide = weight.float()
        scale = wide.abs().amax(1, keepdim=True).clamp_min_(TINY).div_(127)
        self.scale = scale.flatten()
        whole = (wide / scale).round_().clamp_(-127, 127).to(torch.int8)
        self.weight: Tensor | None = whole
        self.packed: Tensor | None = None
        self.is_unsigned = weight.device.type == "cpu" and _has_onednn()
        # Instructions before VNNI add pairs of products in 16 bits: 2 · 127 · 127 fit, 2 · 255 · 127 do not.
        self.levels = 127 if not self.is_unsigned or multiplies_whole_numbers() else 63
        if self.is_unsigned:
            self.packed = torch.ops.onednn.qlinear_prepack(whole, None)
            self.weight = None
            self.zeros = torch.zeros(weight.shape[0], dtype=torch.int64)

    def prepare(self, rows: Tensor) -> tuple[Tensor, ...]:
        return _in_strips(self._rounded, rows)

    def _rounded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        wide = rows.float()
        most = wide.abs().amax(1, keepdim=True).clamp_min_(TINY)
        if self.is_unsigned:  # the middle is their zero; + 0.5, for the cast cuts off
            return wide.mul(self.levels / most).add_(self.levels + 1.5).to(torch.uint8), most / self.levels
        return wide.mul(self.levels / most).round_().to(torch.int8), most / self.levels

    def multiply(self, prepared: tuple[Tensor, ...]) -> Tensor:
        (product,) = _in_strips(self._multiplied, *prepared)
        return product

    def _multiplied(self, rows: Tensor, scale: Tensor) -> tuple[Tensor]:
        if self.packed is not None:
            sums = torch.ops.onednn.qlinear_pointwise(
                rows, 1.0, self.levels + 1, self.packed, self.scale, self.zeros, None,
                1.0, 0, torch.float32, "none", [], "none",
            )  # fmt: skip
            return ((sums * scale).to(self.dtype),)
        assert self.weight is not None
        count = rows.shape[0]
        if rows.device.type != "cpu" and count < LEAST_ROWS:
            rows = F.pad(rows, (0, 0, 0, LEAST_ROWS - count))
        scaled = torch._int_mm(rows, self.weight.t()).narrow(0, 0, count).mul(scale).mul_(self.scale)
        return (scaled.to(self.dtype),)


class Int4(Product):
    """4 bits a number; a scale and an offset for `INT4_GROUP` of them, as torch's own kernels have it."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__(*weight.shape)
        self.dtype, self.nbytes = dtype, narrow_bytes("int4", *weight.shape)
        outs, ins = weight.shape
        grouped = weight.float().view(outs, ins // INT4_GROUP, INT4_GROUP)
        least, most = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
        scale = ((most - least) / 15).clamp_min_(TINY).bfloat16()
        middle = (least + 8 * scale.float()).bfloat16()  # of a number that is 8
        whole = (grouped - middle.float()).div_(scale.float()).add_(8).round_().clamp_(0, 15)
        whole = whole.to(torch.int32).view(outs, ins)
        self.scales = torch.cat((scale, middle), -1).transpose(0, 1).contiguous()  # (groups, outs, 2)
        if weight.device.type == "cpu":
            self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole, 1)
        else:
            first, second = whole.view(outs, ins // 2, 2).unbind(-1)
            pairs = (first * 16 + second).to(torch.uint8)
            tiles = 8 if ins % 128 == 0 else 4  # of 16 inputs; the kernel takes whole ones
            self.packed = torch.ops.aten._convert_weight_to_int4pack(pairs, tiles)

    def prepare(self, rows: Tensor) -> Tensor:
        return rows.bfloat16()

    def multiply(self, prepared: Tensor) -> Tensor:
        if prepared.device.type != "cpu":
            multiply = torch.ops.aten._weight_int4pack_mm
        elif prepared.shape[0] <= FEW_ROWS:
            multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        else:
            parts = [prepared @ self._widened(first) for first in range(0, self.outs, WIDENED)]
            return torch.cat(parts, dim=1).to(self.dtype)
        product: Tensor = multiply(prepared, self.packed, INT4_GROUP, self.scales)
        return product.to(self.dtype)

    def _widened(self, first: int) -> Tensor:
        """Outputs first … first + WIDENED - 1 as they are multiplied by torch's kernel: (ins, outputs) in bfloat16.

        Packed are blocks of outputs; in a block, input by input, the first half of it in the low bits, the second
        in the high bits.
        """
        last = min(first + WIDENED, self.outs)
        block = _int4_block()
        blocks = self.packed.view(self.outs // block, -1, INT4_GROUP, block // 2)[first // block : last // block]
        wide = torch.empty(*blocks.shape[:-1], block, dtype=torch.bfloat16)
        wide[..., : block // 2] = blocks & 15
        wide[..., block // 2 :] = blocks >> 4
        scales = self.scales[:, first:last].view(-1, len(blocks), 1, block, 2).transpose(0, 1)
        wide.sub_(8).mul_(scales[..., 0]).add_(scales[..., 1])
        return wide.flatten(1, 2).transpose(0, 1).reshape(self.ins, last - first)


class Fp8(Product):
    """e4m3 on both sides, a scale for each row of both; sums in float32."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, own_scale: Tensor | None = None) -> None:
        """With `own_scale` (outs, 1) of a weight that is stored in e4m3, the numbers are the stored ones again.

        Whatever came between, as bfloat16 with twice as many digits, is nearer to the stored number than to the next.
        """
        super().__init__(*weight.shape)
        self.dtype, self.nbytes = dtype, narrow_bytes("fp8", *weight.shape)
        self.weight, self.scale = _as_e4m3(weight, own_scale)

    def prepare(self, rows: Tensor) -> tuple[Tensor, ...]:
        return _in_strips(_as_e4m3, rows)

    def multiply(self, prepared: tuple[Tensor, ...]) -> Tensor:
        rows, scale = prepared
        product: Tensor = torch._scaled_mm(
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale.t(), out_dtype=torch.bfloat16
        )
        return product.to(self.dtype)


def _in_strips(compute: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> tuple[Tensor, ...]:
    """`compute` over some of `rows` (T, …) after the others: what it makes on its way is never there for all of them.

    Each row of what it returns depends on the same row alone, and comes out the same in any strip.
    """
    count = rows[0].shape[0]
    if count <= NARROW_ROWS:
        return compute(*rows)
    whole: list[Tensor] = []
    for first in range(0, count, NARROW_ROWS):
        strip = slice(first, first + NARROW_ROWS)
        parts = compute(*(each[strip] for each in rows))
        whole = whole or [part.new_empty(count, *part.shape[1:]) for part in parts]
        for out, part in zip(whole, parts, strict=True):
            out[strip] = part
    return tuple(whole)


def _as_e4m3(rows: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    wide = rows.float()
    if scale is None:
        scale = wide.abs().amax(1, keepdim=True).clamp_min_(TINY).div_(E4M3_MAX)
    return (wide / scale).to(torch.float8_e4m3fn), scale


MAKERS: dict[str, type[Int8 | Int4 | Fp8]] = {"int8": Int8, "int4": Int4, "fp8": Fp8}


def check_kind(kind: str, device: torch.device) -> None:
    """Raises UsageError: the device does not multiply it; the message has the way out."""
    if kind == "fp8":
        what = "this is a CPU" if device.type != "cuda" else None
        if what is None and torch.cuda.get_device_capability(device) < (8, 9):
            what = f"{torch.cuda.get_device_name(device)} is older"
        if what is not None:
            raise UsageError(f"--quantize fp8 needs an Ada or Hopper GPU, and {what}; --quantize int8 reads here")
    if kind == "int4" and device.type == "cpu" and not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        raise UsageError(
            f"--quantize int4 needs torch 2.6, and this is {torch.__version__}; --quantize int8 reads here"
        )


@torch.no_grad()
def quantize(
    module: Attention | FeedForward, kind: str, dtype: torch.dtype, scales: Mapping[str, Tensor] | None = None
) -> None:
    """Narrow products in the place of the weights of one half of a layer, which are let go.

    `scales` () are those of weights that the checkpoint has in fp8, by their names in the module.
    """
    names = {linear: f"{name}.weight" for name, linear in module.named_children()}

    def narrow(*linears: nn.Linear | Product) -> Product:
        assert all(isinstance(linear, nn.Linear) for linear in linears), "it is narrow already"
        weight = torch.cat([weight for linear in linears for weight in linear.parameters()])
        if kind == "fp8" and scales and all(names[linear] in scales for linear in linears):
            own = [scales[names[linear]].expand(next(linear.parameters()).shape[0], 1) for linear in linears]
            return Fp8(weight, dtype, torch.cat(own).to(weight.device)).requires_grad_(False)
        made = MAKERS[kind if kind != "int4" or fits_int4(*weight.shape) else "int8"](weight, dtype)
        made.requires_grad_(False)
        return made

    if isinstance(module, Attention):
        module.product_q, module.product_kv = narrow(module.wq), narrow(module.wk, module.wv)
        module.wo = narrow(module.wo)
        del module.wq, module.wk, module.wv
        module.fused_qkv = None
    else:
        module.product_w1_w3 = narrow(module.w1, module.w3)
        module.w2 = narrow(module.w2)
        del module.w1, module.w3
        module.fused_w1_w3 = None


def halves(model: Decoder) -> list[tuple[str, Attention | FeedForward]]:
    """Names and modules of what can be narrow: both halves of each of the decoder's layers, each expert one."""
    found = model.layers.named_modules(prefix="layers")
    return [(name, each) for name, each in found if isinstance(each, Attention | FeedForward)]


def kind_of(model: Decoder) -> str | None:
    """What its layers were quantized to."""
    kinds = {type(module) for module in model.modules() if isinstance(module, Product)}
    return next((kind for kind in ("int4", "int8", "fp8") if MAKERS[kind] in kinds), None)


def has_products(module: Attention | FeedForward) -> bool:
    """Whether its weights are in a form of their own, no longer those that were read."""
    return module.product_q is not None if isinstance(module, Attention) else module.product_w1_w3 is not None


def _has_onednn() -> bool:
    names = ("qlinear_prepack", "qlinear_pointwise")
    return torch._C._has_mkldnn and all(hasattr(torch.ops.onednn, name) for name in names)


def _int4_block() -> int:
    """Outputs that torch's kernel packs together, by the instructions that torch itself took."""
    return 64 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 32
