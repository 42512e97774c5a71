"""Kernels and calls for a GPU, held without one: compiled as the engine launches them, bound to torch's signatures."""

from __future__ import annotations

import os
import sys
from functools import cache

import pytest

if not sys.platform.startswith("linux") or os.environ.get("TRITON_INTERPRET"):
    pytest.skip("Triton compiles on Linux, where it does not interpret", allow_module_level=True)
pytest.importorskip("triton")

from tests.engine import gpu_programs

SHARED = {
    80: 163 * 1024,
    90: 227 * 1024,
}  # bytes a block may take (CUDA C++ Programming Guide, technical specifications)
SHARED_ALL = {80: 164 * 1024, 90: 228 * 1024}  # bytes of a multiprocessor; a block takes 1 KiB more than it asks for
REGISTERS = 65_536  # of a multiprocessor

# torch 2.11.0+cu130 from PyPI (git 70d99e99), torch/nn/attention/varlen.py, and the schemas in its libtorch_cpu.so.
VARLEN_2_11 = """def varlen_attn(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
    max_q: int, max_k: int, *, return_aux: AuxRequest | None = None, scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]: ..."""
SCHEMAS_2_11 = {
    "aten::_scaled_mm": "(Tensor self, Tensor mat2, Tensor scale_a, Tensor scale_b, Tensor? bias=None, "
    "Tensor? scale_result=None, ScalarType? out_dtype=None, bool use_fast_accum=False) -> Tensor",
    "aten::_scaled_mm_v2": "(Tensor self, Tensor mat2, Tensor[] scale_a, int[] recipe_a, int[] swizzle_a, "
    "Tensor[] scale_b, int[] recipe_b, int[] swizzle_b, Tensor? bias, ScalarType? out_dtype, "
    "int[] contraction_dim=[], bool use_fast_accum=False) -> Tensor",
    "aten::_int_mm": "(Tensor self, Tensor mat2) -> Tensor",
    "aten::_convert_weight_to_int4pack": "(Tensor self, int innerKTiles) -> Tensor",
    "aten::_weight_int4pack_mm": "(Tensor self, Tensor mat2, int qGroupSize, Tensor qScaleAndZeros) -> Tensor",
}
ON_A_GPU_ALONE = ("torch_attn::", *SCHEMAS_2_11)


@pytest.fixture(scope="module", params=[90, 80])
def launched(request):
    """All launches of an engine of Pixtral 12B; on an H100 with today's torch, on an A100 with 2.11's signature."""
    return request.param, gpu_programs.launches(request.param, None if request.param == 90 else VARLEN_2_11)


@cache
def drafted(capability, narrow_cache):
    return gpu_programs.launches(capability, narrow_cache=narrow_cache, drafts=True)


def test_every_kernel_compiles_as_it_is_launched_and_fits(launched):
    capability, found = launched
    names = {program.name for program in found.programs}
    assert names >= {"_add_rms_norm", "_gate", "_rotate", "_store", "_copy_blocks", "_decode_split", "_decode_join"}
    for program in found.programs:
        assert program.spilled == 0, program
        assert program.shared <= SHARED[capability], program
        assert program.registers * program.threads <= REGISTERS, program


def test_decode_keeps_the_next_tiles_keys_and_values_on_their_way(launched):
    """All waits were 0 before the next block's number travelled through the loop: one buffer, nothing under way."""
    capability, found = launched
    (split,) = found.of("_decode_split")
    assert split.async_copies > 0 and max(split.waits) >= 2, split  # one group of keys, one of values
    assert any("bf16" in product for product in split.products), split
    blocks = min(SHARED_ALL[capability] // (split.shared + 1024), REGISTERS // (split.registers * split.threads))
    assert blocks >= 2, (blocks, split)  # while one computes its softmax, another's loads go on
    assert split.grid[1:] == (8, 9), split.grid  # 8 key heads, 9 splits of 1,024 keys


def test_calls_of_varlen_attn_bind_to_torch_2_11_and_to_the_installed_one(launched):
    """A TypeError would have ended the launch; what it was asked is checked here."""
    capability, found = launched
    causal = [call for call in found.varlen if call[1]["window_size"] == (-1, 0)]
    inside = [call for call in found.varlen if call[1]["window_size"] == (-1, -1)]
    assert causal and inside and len(causal) + len(inside) == len(found.varlen)
    with_past = [args for args, _ in causal if args[1].shape[0] > args[0].shape[0]]
    assert with_past and all(args[6] > args[5] for args in with_past)
    for (query, key, value, cu_q, cu_k, *_), more in found.varlen:
        assert cu_q.dtype == cu_k.dtype and str(cu_q.dtype) == "torch.int32" and cu_q.shape == cu_k.shape
        assert key.shape == value.shape and query.shape[1] % key.shape[1] == 0
        assert all(x.stride(2) == 1 and x.dtype == query.dtype for x in (query, key, value))  # FlashAttention's terms
        assert more.get("num_splits", 1) == 1 and ("num_splits" in more) == (capability == 90)


def test_operators_of_a_gpu_alone_are_those_of_torch_2_11(launched):
    _, found = launched
    used = {schema.partition("(")[0]: schema for schema in found.operators if schema.startswith(ON_A_GPU_ALONE)}
    assert "torch_attn::_varlen_attn" in used
    for name, schema in used.items():
        if name in SCHEMAS_2_11:
            assert schema == name + SCHEMAS_2_11[name]


def test_a_narrow_cache_compiles_for_hopper_with_three_tiles_on_their_way():
    found = drafted(90, narrow_cache=True)
    (split, _), store = found.of("_decode_split"), found.of("_store_narrow")
    assert store and found.of("_copy_blocks") and not found.of("_store")
    assert all(program.spilled == 0 for program in found.programs)
    assert max(split.waits) >= 4, split  # two groups of keys, two of values
    assert any("bf16" in product for product in split.products), split
    blocks = min(SHARED_ALL[90] // (split.shared + 1024), REGISTERS // (split.registers * split.threads))
    assert blocks >= 2, (blocks, split)
    past = [args for args, more in found.varlen if more["window_size"] == (-1, 0)]
    assert past and all(str(key.dtype) == "torch.bfloat16" for _, key, *_ in past)


@pytest.mark.parametrize(("capability", "narrow_cache"), [(90, False), (90, True), (80, False)])
def test_rows_of_a_draft_take_no_more_of_a_multiprocessor_than_one(capability, narrow_cache):
    found = drafted(capability, narrow_cache=narrow_cache)
    alone, together = found.of("_decode_split")
    assert together.grid == alone.grid == (16, 8, 9), "a program takes a run of rows, not a row"
    assert together.spilled == 0 and together.shared == alone.shared and together.waits == alone.waits
    blocks = [REGISTERS // (program.registers * program.threads) for program in (alone, together)]
    assert blocks[1] >= blocks[0] >= 2, (alone, together)
    assert found.waits == []


@pytest.mark.parametrize(
    ("kind", "product"),
    [("fp8", "aten::_scaled_mm"), ("int8", "aten::_int_mm"), ("int4", "aten::_weight_int4pack_mm")],
)
def test_products_of_narrow_weights_are_called_as_torch_2_11_and_2_13_have_them(kind, product):
    """torch's own checks of types, shapes, strides and scales run on meta tensors, too."""
    found = gpu_programs.launches(90, kind=kind)
    used = {schema.partition("(")[0]: schema for schema in found.operators if schema.startswith(ON_A_GPU_ALONE)}
    assert product in used and found.waits == []
    for name in used.keys() & SCHEMAS_2_11.keys():
        assert used[name] == name + SCHEMAS_2_11[name]


def test_nothing_in_launch_makes_the_host_wait(launched):
    """Pages without a temperature. On a GPU `bench_engine_gpu` holds the same by torch's own sync debug mode."""
    _, found = launched
    assert found.waits == []
