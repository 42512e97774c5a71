"""Which cache blocks belong to whom: plain bookkeeping over block numbers, no tensors.

The cache is cut into blocks of `block_size` tokens. A sequence's block table lists its blocks in order; token t lies
in slot `table[t // block_size] * block_size + t % block_size`. A page's prefix (through its image) is kept under its
key after it is computed, so that the page's other prompts take it instead of computing it:

    prefix of 10 tokens, blocks of 4:    full  full  partial(2)
    another prompt of the page:          shared shared copy of partial, then its own tokens

Full blocks are shared by reference count and never written again. The last one, partly filled, is copied by whoever
takes the prefix, since its own next token goes there (copy on write, with the write certain). Prefixes nobody uses are
given back oldest first, when blocks are needed. Kwon et al. 2023, "PagedAttention", arXiv:2309.06180, §4.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prefix:
    """A computed prefix: `length` tokens in `blocks`, the last of them partly filled unless the length divides."""

    blocks: tuple[int, ...]
    length: int


class BlockPool:
    """Hands out block numbers 0 … num_blocks - 1; low numbers first, so that tables tend to be runs."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a cache needs blocks: {num_blocks} of {block_size} tokens")
        self.num_blocks, self.block_size = num_blocks, block_size
        self._free = list(range(num_blocks))
        self._references: Counter[int] = Counter()
        self._prefixes: OrderedDict[str, Prefix] = OrderedDict()  # least recently used first

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    @property
    def num_free(self) -> int:
        """Blocks that are free now."""
        return len(self._free)

    @property
    def num_available(self) -> int:
        """Blocks that are free, or would be if unused prefixes were given back."""
        held = Counter(block for prefix in self._prefixes.values() for block in prefix.blocks)
        return len(self._free) + sum(self._references[block] == times for block, times in held.items())

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks, each with one reference, or None if there are not enough; gives back unused prefixes."""
        while len(self._free) < count and self._drop_oldest_unused():
            pass
        if len(self._free) < count:
            return None
        blocks = [heapq.heappop(self._free) for _ in range(count)]
        for block in blocks:
            self._references[block] += 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """One more reference to each."""
        for block in blocks:
            assert self._references[block] > 0, f"block {block} is free"
            self._references[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """One reference less; at none left the block is free."""
        for block in blocks:
            assert self._references[block] > 0, f"block {block} is released twice"
            self._references[block] -= 1
            if not self._references[block]:
                del self._references[block]
                heapq.heappush(self._free, block)

    def keep_prefix(self, key: str, blocks: Iterable[int], length: int) -> None:
        """Remember a prefix that is now computed; holds a reference to its blocks until it is dropped."""
        if key in self._prefixes:
            return
        prefix = Prefix(tuple(blocks), length)
        assert len(prefix.blocks) == self.blocks_for(length), (prefix, self.block_size)
        self.share(prefix.blocks)
        self._prefixes[key] = prefix

    def has_prefix(self, key: str | None) -> bool:
        return key in self._prefixes

    def take_prefix(self, key: str, num_blocks: int) -> tuple[list[int], int, list[tuple[int, int]]] | None:
        """A table of `num_blocks` that begins with the prefix: (table, prefix length, [(from block, to block)]).

        None if there are not enough free blocks. The copies must be made before anything is written to the table.
        """
        prefix = self._prefixes[key]
        self._prefixes.move_to_end(key)
        shared = prefix.blocks[: prefix.length // self.block_size]
        self.share(prefix.blocks)  # also the partial one: it must outlive an eviction inside allocate
        own = self.allocate(num_blocks - len(shared))
        self.release(prefix.blocks[len(shared) :])
        if own is None:
            self.release(shared)
            return None
        copies = list(zip(prefix.blocks[len(shared) :], own, strict=False))
        return [*shared, *own], prefix.length, copies

    def drop_prefix(self, key: str) -> None:
        """Forget a prefix; its blocks are free as soon as no sequence holds them."""
        self.release(self._prefixes.pop(key).blocks)

    def drop_prefixes(self) -> None:
        """Forget every prefix; their blocks are free as soon as no sequence holds them."""
        for key in list(self._prefixes):
            self.drop_prefix(key)

    def check(self, tables: Iterable[list[int]]) -> None:
        """Assert that blocks are free or referenced exactly as `tables` and the prefixes say."""
        expected = Counter(block for table in tables for block in table)
        expected.update(block for prefix in self._prefixes.values() for block in prefix.blocks)
        assert expected == self._references, (expected, self._references)
        assert len(self._free) + len(expected) == self.num_blocks, "a block is lost"
        assert not set(self._free) & set(expected), "a free block is in use"

    def _is_unused(self, prefix: Prefix) -> bool:
        return any(self._references[block] == 1 for block in prefix.blocks)

    def _drop_oldest_unused(self) -> bool:
        """Drop the least recently used prefix that frees a block; false where none would."""
        for key, prefix in self._prefixes.items():
            if self._is_unused(prefix):
                self.drop_prefix(key)
                return True
        return False
