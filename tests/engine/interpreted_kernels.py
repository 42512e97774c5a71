"""The CUDA executor's Triton kernels by themselves, run by Triton's interpreter on a CPU.

`test_pixtral_cuda_logic.py` asks in a process of its own, whose TRITON_INTERPRET is set. An operation costs its Python,
whatever its size, so splits and copied parts are an eighth of a GPU's: there are as many of them, of fewer tiles.
"""

from __future__ import annotations

from functools import cache


def mend_interpreter() -> None:
    """Triton's interpreter patches its language at each launch and each call inside, and takes it back.

    Half of the time went there. Nothing compiles in this process, so one patch for each module of kernels stays. A
    block's type is made anew for every number that has it; here once. Two things it gets wrong: a float32 that e4m3
    rounds up to a power of two loses its carry, and numbers in bfloat16 are multiplied as the whole numbers that they
    are kept in.
    """
    import numpy as np
    import torch
    import triton.language as tl
    from torch.testing import _comparison
    from triton.runtime import interpreter

    patch_language, patched = interpreter._patch_lang, set()

    class Kept:
        def restore(self) -> None:
            pass

    def once(kernel):
        if kernel.__module__ not in patched:
            patched.add(kernel.__module__)
            patch_language(kernel)
        return Kept()

    look_up = interpreter._get_np_dtype  # makes a dictionary at each call
    known = cache(look_up)
    convert, dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def rounded(numbers, source, target, mode):
        if (source, target) == (tl.float32, tl.float8e4nv):
            return torch.from_numpy(np.array(numbers)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
        return convert(numbers, source, target, mode)

    def wide(x):
        if x.dtype.scalar != tl.bfloat16:
            return x
        numbers = convert(x.data, tl.bfloat16, tl.float32, None).view(np.float32)
        return interpreter.TensorHandle(numbers, tl.float32)

    new_type, types = tl.block_type.__init__, {}

    def made_once(self, element_type, shape):
        key = element_type.name, *(getattr(length, "value", length) for length in shape)
        if key not in types:
            new_type(self, element_type, shape)
            types[key] = vars(self)
        self.__dict__ = types[key]

    tl.block_type.__init__ = made_once
    _comparison._HAS_DTENSOR = False  # else assert_close imports tensors of many hosts, a second
    interpreter._patch_lang = once
    interpreter._get_np_dtype = lambda kind: known(kind) if type(kind) is tl.dtype else look_up(kind)
    interpreter._convert_float = rounded
    interpreter.InterpreterBuilder.create_dot = lambda self, a, b, *more: dot(self, wide(a), wide(b), *more)


def check_fused() -> None:
    import torch

    from workers.pixtral.cuda import fused as fused_kernels
    from workers.pixtral.model.layers import Attention, Operations, RMSNorm

    torch.manual_seed(0)
    fused, plain = fused_kernels.FusedOperations(), Operations()
    norm = RMSNorm(80, 1e-5)
    norm.weight.data.normal_()
    rows, update = torch.randn(5, 80), torch.randn(5, 80)
    with torch.no_grad():
        torch.testing.assert_close(fused.rms_norm(rows, norm), plain.rms_norm(rows, norm))
        expected = plain.add_rms_norm(rows, update, norm)
        torch.testing.assert_close(fused.add_rms_norm(rows.clone(), update, norm), expected)
    both = torch.randn(3, 60)
    torch.testing.assert_close(fused.gate(both), plain.gate(both))
    heads, rotation = torch.randn(6, 8, 16)[:, :3], torch.randn(6, 8, 2)
    expected = plain.rotate(heads, rotation)
    torch.testing.assert_close(fused.rotate(heads, rotation), expected)
    attention = Attention(64, 4, 16, 2)
    attention.fused_qkv = torch.randn(8 * 16, 64)
    rows, own = torch.randn(6, 64), torch.randn(6, 2, 8, 2)  # queries have a rotation of their own, as in Ministral 3
    with torch.no_grad():
        torch.testing.assert_close(attention.qkv(rows, own, fused), attention.qkv(rows, own, plain))


def check_kernels() -> None:
    """With splits of 128 keys, as `check_all` sets, and blocks of 32."""
    import torch

    from workers.pixtral.cpu.attention import attend_one
    from workers.pixtral.cuda import kernels
    from workers.pixtral.model import kv_cache
    from workers.pixtral.plan import batch

    cpu = torch.device("cpu")
    torch.manual_seed(0)
    keys, values = torch.randn(12 * 32, 2, 16), torch.randn(12 * 32, 2, 16)
    blocks = torch.randperm(12)
    lengths = [1, 188, 0, 128]  # one key, across splits, a padding row, exactly one split
    tables = torch.zeros(4, 8, dtype=torch.int32)
    tables[0, :1], tables[1, :6], tables[3, :4] = blocks[:1], blocks[1:7], blocks[7:11]
    query, out = torch.randn(4, 8, 16), torch.full((4, 8, 16), torch.nan)
    paged = kernels.PagedKernels(4, 8, 2, 16, 300, 32, cpu)
    paged.decode(query, kv_cache.Stored(keys, values), tables, torch.tensor(lengths, dtype=torch.int32), out)
    for row, length in enumerate(lengths):
        places = torch.from_numpy(batch.slots_of(tables[row].tolist(), 0, length, 32))
        expected = attend_one(query[row], keys[places], values[places]) if length else torch.zeros(8, 16)
        torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-5)

    # More splits than are joined at once; tables of another width give the same bits. The last keys weigh most.
    keys, values = torch.randn(18 * 128, 1, 16), torch.randn(18 * 128, 1, 16)
    tables = torch.randperm(18 * 4).to(torch.int32)[None]
    keys[torch.from_numpy(batch.slots_of(tables[0].tolist(), 16 * 128, 17 * 128 + 5, 32))] *= 2
    for length in (17 * 128 + 5, 188):
        wide, narrow = (torch.full((1, 4, 16), torch.nan) for _ in range(2))
        for most, out in ((3000, wide), (17 * 128 + 32, narrow)):
            paged = kernels.PagedKernels(1, 4, 1, 16, most, 32, cpu)
            paged.decode(
                query[:1, :4], kv_cache.Stored(keys, values), tables, torch.tensor([length], dtype=torch.int32), out
            )
        assert torch.equal(wide, narrow)
        places = torch.from_numpy(batch.slots_of(tables[0].tolist(), 0, length, 32))
        expected = attend_one(query[0, :4], keys[places], values[places])
        torch.testing.assert_close(wide[0], expected, atol=1e-5, rtol=1e-5)

    # Tiles of two blocks: the same sum in another order.
    lengths, tables = [88, 188, 0, 33], torch.stack([torch.randperm(12)[:8] for _ in range(4)]).to(torch.int32)
    cache = kv_cache.PagedCache(2, 12, 32, 2, 16, cpu, torch.float32)
    cache.stacked.normal_()
    for tile in (32, 64):
        out = torch.full((4, 8, 16), torch.nan)
        paged = kernels.PagedKernels(4, 8, 2, 16, 300, 32, cpu)
        paged.tile = tile
        paged.decode(query, cache.layer(1), tables, torch.tensor(lengths, dtype=torch.int32), out)
        for row, length in enumerate(lengths):
            places = torch.from_numpy(batch.slots_of(tables[row].tolist(), 0, length, 32))
            parts = (x.double() for x in (query[row], cache.keys[1][places], cache.values[1][places]))
            expected = attend_one(*parts).float() if length else torch.zeros(8, 16)
            torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-5)

    # Narrow: e4m3 with a scale for each token's head, against float64 of what is stored.
    tight = kv_cache.PagedCache(1, 12, 32, 2, 16, cpu, torch.float32, narrow=True)
    rows = torch.randn(12 * 32, 4, 16) * torch.rand(12 * 32, 4, 1).exp2().pow(8)
    for half in range(2):
        eight, scales = kv_cache.narrow(rows[:, 2 * half : 2 * half + 2])
        tight.stacked[0, half] = eight.reshape(tight.stacked[0, half].shape)
        tight.scales[0, half] = scales.reshape(tight.scales[0, half].shape)
    stored = tight.layer(0)
    out = torch.full((4, 8, 16), torch.nan)
    kernels.PagedKernels(4, 8, 2, 16, 300, 32, cpu).decode(
        query, stored, tables, torch.tensor(lengths, dtype=torch.int32), out
    )
    for row, length in enumerate(lengths):
        places = torch.from_numpy(batch.slots_of(tables[row].tolist(), 0, length, 32))
        key, value = stored.rows(places, torch.float64)
        expected = attend_one(query[row].double(), key, value).float() if length else torch.zeros(8, 16)
        torch.testing.assert_close(out[row], expected, atol=1e-4, rtol=1e-4)


def check_stores_and_copies() -> None:
    """Three heads, so that a row is no power of two; blocks of 1,536 numbers, so that a program copies half of one."""
    import torch

    from workers.pixtral.cuda import kernels
    from workers.pixtral.model import kv_cache

    cpu = torch.device("cpu")
    torch.manual_seed(0)
    paged = kernels.PagedKernels(4, 12, 3, 16, 300, 32, cpu)
    both = torch.randn(3, 18, 16)
    keys, values = torch.zeros(11, 3, 16), torch.zeros(11, 3, 16)  # the cache begins at 1: a padding row would write 0
    paged.store(both[:, 12:15], both[:, 15:], kv_cache.Stored(keys[1:], values[1:]), torch.tensor([3, -1, 8]))
    for stored, rows in ((keys, both[:, 12:15]), (values, both[:, 15:])):
        assert torch.equal(stored[4], rows[0]) and torch.equal(stored[9], rows[2])
        assert (stored != 0).any(-1).any(-1).sum() == 2, "a padding row wrote, or a row beyond its slot"

    tight = kv_cache.PagedCache(2, 3, 32, 3, 16, cpu, torch.float32, narrow=True)
    tight.stacked.zero_()
    tight.scales.zero_()
    rows = torch.randn(9, 6, 16) * torch.rand(9, 6, 1).exp2().pow(8)
    places = [5, 6, 80, 9, 63, 64, 65, 66]
    paged.store(rows[:, :3], rows[:, 3:], tight.layer(1), torch.tensor([*places[:2], -1, *places[2:]]))
    given = torch.tensor([0, 1, 3, 4, 5, 6, 7, 8])
    for heads, stored, scales in ((slice(0, 3), *tight.layer(1)[::2]), (slice(3, 6), *tight.layer(1)[1::2])):
        eight, scale = kv_cache.narrow(rows[given, heads])
        assert torch.equal(scales[places], scale)
        assert torch.equal(stored[places].float(), eight.float())
    written = (tight.stacked.float() != 0).any(-1).any(-1)
    assert written.sum() == (tight.scales != 0).flatten(-2).any(-1).sum() == 2 * len(places), "more rows than came"

    cache = kv_cache.PagedCache(2, 12, 32, 3, 16, cpu, torch.float32, copy=kernels.copy_blocks)
    cache.stacked.normal_()
    expected = cache.stacked.clone()
    for source, target in ((3, 10), (0, 7)):
        expected[:, :, target * 32 : (target + 1) * 32] = expected[:, :, source * 32 : (source + 1) * 32]
    cache.copy_blocks([(3, 10), (0, 7)])
    assert torch.equal(cache.stacked, expected)


def check_rows_of_drafts() -> None:
    import torch

    from benchmarks.gpu_draft_gates import check_runs

    cpu = torch.device("cpu")
    pages = (1, 4), (62, 4), (126, 4), (88, 1), (255, 4)
    check_runs(cpu, 4, 1, 16, pages=pages, narrow_cache=False)
    check_runs(cpu, 4, 1, 16, pages=pages, narrow_cache=True)
    for heads, kv_heads, dtype in ((6, 2, torch.float32), (2, 2, torch.float16), (16, 1, torch.bfloat16)):
        pages = ((63, 2), (127, 2)) if heads == 16 else ((62, 5), (127, 2))  # where a group fills a product, runs are 1
        check_runs(cpu, heads, kv_heads, 16, dtype, pages, narrow_cache=False)


def check_all() -> None:
    from workers.pixtral.cuda import kernels

    mend_interpreter()
    kernels.SPLIT_TOKENS, kernels.COPIED_NUMBERS = 128, 1024
    check_fused()
    check_kernels()
    check_stores_and_copies()
    check_rows_of_drafts()
