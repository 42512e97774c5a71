"""One step on the device: lay out, encode new images, run the layers, sample.

`launch` only enqueues work (on a GPU nothing in it waits, but for draws with temperature: see `sampling.choose`);
`Launched.tokens` is the one place where the host waits for the device. Features of an image live from its first chunk
to its last, so chunks that end inside an image do not encode it twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from workers.pixtral.cpu.attention import PagedCache, SdpaPagedAttention
from workers.pixtral.cpu.threads import ALONE, lanes_of, use_one_thread
from workers.pixtral.cpu.tiles import Arithmetic, Tiles, prepared_product
from workers.pixtral.model import decoder, sampling, vision
from workers.pixtral.model.transfer import to_device
from workers.pixtral.plan import batch
from workers.pixtral.plan.scheduler import Limits, Step
from workers.pixtral.plan.sequence import Sequence
from workers.pixtral.upstream import Transformer


@dataclass(frozen=True, slots=True)
class Launched:
    """A step under way: who was sampled, and their tokens on the device."""

    sequences: list[Sequence]
    sampled: Tensor  # (R,) on the host, sampling.NOT_FINITE where the logits were not
    ready: torch.cuda.Event | None  # when `sampled` has arrived; None where it is there
    useful_rows: int
    computed_rows: int
    images: int

    def tokens(self) -> list[int]:
        """Wait for this step, not for those launched after it."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.sampled.tolist()


class Executor:
    """Owns the model and the cache on one device. Not thread-safe: the engine's thread alone calls it."""

    cache_by_head = True  # what SDPA reads fastest

    def __init__(
        self, model: Transformer, limits: Limits, num_blocks: int, block_size: int, prefill_tile: int | None
    ) -> None:
        args = model.args
        self.model, self.limits, self.block_size = model, limits, block_size
        self.device: torch.device = model.device
        self.prefill_tile = prefill_tile
        self.is_small = args.dim < 512 and self.device.type == "cpu"
        self.decode_tile = self.choose_decode_tile(limits)
        self.lanes = lanes_of(torch.get_num_threads()) if self.device.type == "cpu" else ALONE
        self.head = prepared_product(model.output.weight, self.decode_tile)
        self.cache = PagedCache(
            args.n_layers,
            num_blocks,
            block_size,
            args.n_kv_heads,
            args.head_dim,
            self.device,
            model.dtype,
            by_head=self.cache_by_head,
        )
        self.last_tokens = torch.zeros(limits.max_sequences, dtype=torch.int64, device=self.device)
        self.features: dict[int, Tensor] = {}  # by sequence number
        self.images_encoded = 0

    def choose_decode_tile(self, limits: Limits) -> int:
        return min(limits.max_sequences, 64 if self.is_small else 8)

    def decode_rows(self, count: int) -> int:
        """Rows that `count` decoding or sampled sequences take."""
        return -(-count // self.decode_tile) * self.decode_tile

    def arithmetic(self, num_decode_rows: int = 0, tile: int | None = None) -> Arithmetic:
        if tile is not None:
            return Arithmetic(Tiles(tile), self.lanes if self.is_small else ALONE)
        tile = self.prefill_tile
        tiles = Tiles(tile, num_decode_rows, self.decode_tile, self.is_small) if tile else None
        return Arithmetic(tiles, self.lanes)

    def enter(self) -> None:
        """Called once by the thread that will launch. Small steps run faster on one core than shared: lanes share."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # Triton, events and streams take the thread's current device
        if self.is_small:
            use_one_thread(torch.get_num_threads())

    @torch.inference_mode()
    def launch(self, step: Step) -> Launched:
        """Enqueue the step.

        Raises:
            torch.OutOfMemoryError and whatever else the device raises; the step may then be launched again.
        """
        if step.copies:
            self.cache.copy_blocks(step.copies)
        images = self._encode_images(step)
        layout = batch.lay_out(
            step,
            self.block_size,
            self.model.args.vision_encoder.image_token_id,
            self.arithmetic().padded,
            self.decode_rows(len(step.decodes)),
        )
        hidden = self._run(step, layout)
        sampled = self._sample(layout, hidden)
        self._forget_features(step)
        ready = None
        if self.device.type == "cuda":
            sampled = torch.empty(sampled.shape, dtype=sampled.dtype, pin_memory=True).copy_(sampled, non_blocking=True)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        return Launched(layout.sample_sequences, sampled, ready, layout.useful_rows, len(layout.positions), images)

    def forget(self, sequence: Sequence) -> None:
        """Drop what is held for a sequence that ended or begins again."""
        self.features.pop(sequence.number, None)

    def _encode_images(self, step: Step) -> int:
        """Features for chunks that reach into an image for the first time, packed while the budget holds."""
        due = [
            chunk.sequence
            for chunk in step.chunks
            if chunk.first < chunk.sequence.request.image_end and chunk.sequence.number not in self.features
        ]
        group: list[Sequence] = []
        size = count = 0
        for sequence in dict.fromkeys(due):
            patches = sum(vision.num_patches(image.pixels.shape, self.model) for image in sequence.request.images)
            if group and size + patches > self.limits.token_budget:
                self._encode_group(group)
                group, size = [], 0
            group.append(sequence)
            size += patches
            count += len(sequence.request.images)
        if group:
            self._encode_group(group)
        return count

    def _encode_group(self, group: list[Sequence]) -> None:
        images = [image for sequence in group for image in sequence.request.images]
        pixels = [to_device(image.pixels, self.device) for image in images]
        features = vision.encode_images(self.model, pixels, self.arithmetic())
        merge = self.model.args.vision_encoder.spatial_merge_size
        first = 0
        for sequence in group:
            shapes = [image.pixels.shape for image in sequence.request.images]
            last = first + sum(vision.num_patches(shape, self.model) // merge**2 for shape in shapes)
            self.features[sequence.number] = features[first:last]
            first = last
        self.images_encoded += len(images)

    def _forget_features(self, step: Step) -> None:
        for chunk in step.chunks:
            if chunk.last >= chunk.sequence.request.image_end:
                self.forget(chunk.sequence)

    def _run(self, step: Step, layout: batch.Layout) -> Tensor:
        """Hidden states after the final norm of the rows to sample, padded to whole decode tiles: (R, dim)."""
        token_ids = to_device(layout.token_ids, self.device)
        positions = to_device(layout.positions, self.device)
        if (layout.token_ids < 0).any():
            slots = np.zeros(len(layout.token_ids), np.int64)
            slots[layout.first_decode :][: len(step.decodes)] = [decode.sequence.slot for decode in step.decodes]
            token_ids = torch.where(token_ids < 0, self.last_tokens[to_device(slots, self.device)], token_ids)
        hidden = F.embedding(token_ids, self.model.tok_embeddings.weight)
        if layout.feature_ranges:
            features = torch.cat([self.features[s.number][first:last] for s, first, last in layout.feature_ranges])
            hidden = hidden.index_copy(0, to_device(layout.feature_rows, self.device), features)
        few = self.arithmetic(tile=self.decode_tile)
        attend = SdpaPagedAttention(self.cache, layout, self._sample_rows(layout), few, self.device, self.lanes)
        arithmetic = self.arithmetic(len(layout.positions) - layout.first_decode)
        return decoder.run_layers(self.model, hidden, positions, attend, arithmetic, attend)

    def _sample_rows(self, layout: batch.Layout) -> Tensor:
        """Rows of the pack to sample; padded, so that the head has one shape whoever else is sampled."""
        rows = np.zeros(self.decode_rows(max(1, len(layout.sample_rows))), np.int64)
        rows[: len(layout.sample_rows)] = layout.sample_rows
        return to_device(rows, self.device)

    def _sample(self, layout: batch.Layout, hidden: Tensor) -> Tensor:
        """Next tokens of the first rows of `hidden`; also kept on the device for the next step."""
        count = len(layout.sample_rows)
        if not count:
            return torch.zeros(0, dtype=torch.int64)
        few = self.arithmetic(tile=self.decode_tile)
        logits = few.by_tile(lambda rows: (self.head(rows),), hidden)[0][:count]
        wanted = [sequence.request.sampling for sequence in layout.sample_sequences]
        uniforms = [
            sampling.uniform(want.seed, position) if want.temperature > 0 else 0.0
            for want, position in zip(wanted, layout.sample_positions, strict=True)
        ]
        tokens = sampling.choose(
            logits, [want.temperature for want in wanted], [want.top_p for want in wanted], uniforms
        )
        slots = np.asarray([sequence.slot for sequence in layout.sample_sequences], np.int64)
        self.last_tokens.index_copy_(0, to_device(slots, self.device), tokens.clamp_min(0))
        return tokens

    def make_room(self) -> None:
        """After out of memory: give cached device memory back, so that a smaller step may fit."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
