"""One step on the device: lay out, encode new images, run the layers, sample; a `Backend` computes.

`launch` only enqueues work (on a GPU nothing in it waits, but for draws with temperature: see `sampling.choose`);
`Launched.tokens` is the one place where the host waits for the device. Features of an image live from its first chunk
to its last, so chunks that end inside an image do not encode it twice, and of a page in many tiles only those of the
tiles under way are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.pixtral.model import sampling, vision
from workers.pixtral.model.kv_cache import PagedCache
from workers.pixtral.model.transfer import to_device
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan.batch import Layout, lay_out, slots_of
from workers.pixtral.plan.draft_rows import DraftRoom
from workers.pixtral.plan.scheduler import Limits, Step
from workers.pixtral.plan.sequence import Image, Sequence


class Backend(Protocol):
    """The model and its cache on one kind of device: attention, operations, and how rows are cut or recorded."""

    model: Pixtral
    cache: PagedCache
    device: torch.device
    drafts: DraftRoom | None  # for rows of drafts; None: it takes none

    def enter(self) -> None:
        """Called once by the thread that will launch."""
        ...

    def padded(self, num_rows: int) -> int:
        """Rows to compute for so many prefill rows."""
        ...

    def decode_rows(self, count: int) -> int:
        """Rows that `count` decoding or sampled sequences take."""
        ...

    def encode(self, images: AbstractSequence[Tensor]) -> Tensor:
        """Features of all images end to end, (N, dim)."""
        ...

    def run(self, step: Step, layout: Layout, features: Tensor | None, last_tokens: Tensor) -> Tensor:
        """Hidden states after the final norm of the rows to sample, padded to `decode_rows`: (R, dim).

        `features` (N, dim) go to the layout's feature rows; `last_tokens` holds the tokens that the host has not read.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, dim) → (R, vocabulary)."""
        ...

    def clear(self, slots: NDArray[np.int64]) -> None:
        """Zeros in these slots of the cache."""
        ...

    def make_room(self) -> None:
        """After out of memory: give cached device memory back, so that a smaller step may fit."""
        ...


@dataclass(frozen=True, slots=True)
class Launched:
    """A step under way: who was sampled, and their tokens on the device."""

    sequences: list[Sequence]  # one for each row
    positions: list[int]  # of the rows
    drafts: list[int | None]  # what was fed there, where it was only drafted
    sampled: Tensor  # (2, R) float64 on the host: tokens (sampling.NOT_FINITE where the logits were not), log p of each
    ready: torch.cuda.Event | None  # when `sampled` has arrived; None where it is there
    useful_rows: int
    computed_rows: int
    images: int

    def tokens(self) -> list[tuple[Sequence, int, int | None, int, float]]:
        """Of each row: sequence, position, draft, the token, and the logarithm of how likely it was.

        Waits for this step, for none that came after it.
        """
        if self.ready is not None:
            self.ready.synchronize()
        tokens, log_probabilities = self.sampled.tolist()
        return list(zip(self.sequences, self.positions, self.drafts, map(int, tokens), log_probabilities, strict=True))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Features first … last - 1 of one image, which a chunk takes; `ends` if it takes the image's last."""

    key: tuple[int, int]
    image: Image
    patches: int
    first: int
    last: int
    ends: bool


class Executor:
    """Runs steps on a backend. Not thread-safe: the engine's thread alone calls it."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self.backend, self.limits = backend, limits
        self.device = backend.device
        self.last_tokens = torch.zeros(limits.max_sequences, dtype=torch.int64, device=self.device)
        self.features: dict[tuple[int, int], Tensor] = {}  # by sequence number and place among its images
        self.images_encoded = 0

    def enter(self) -> None:
        """Called once by the thread that will launch."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # Triton, events and streams take the thread's current device
        self.backend.enter()

    @torch.inference_mode()
    def launch(self, step: Step) -> Launched:
        """Enqueue the step.

        Raises:
            torch.OutOfMemoryError and whatever else the device raises; the step may then be launched again.
        """
        backend, vision_config = self.backend, self.backend.model.config.vision_encoder
        if step.copies:
            backend.cache.copy_blocks(step.copies)
        rows = backend.decode_rows(len(step.decodes))
        layout = lay_out(step, backend.cache.block_size, vision_config.image_token_id, backend.padded, rows)
        pieces = [piece for span in layout.feature_ranges for piece in self._pieces(*span)]
        images = self._encode_images(pieces)
        features = None
        if pieces:
            features = torch.cat([self.features[piece.key][piece.first : piece.last] for piece in pieces])
        hidden = backend.run(step, layout, features, self.last_tokens)
        sampled = self._sample(layout, hidden)
        self._forget_passed(step, pieces)
        ready = None
        if self.device.type == "cuda":
            sampled = torch.empty(sampled.shape, dtype=sampled.dtype, pin_memory=True).copy_(sampled, non_blocking=True)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        return Launched(
            layout.sample_sequences,
            layout.sample_positions,
            layout.sample_drafts,
            sampled,
            ready,
            layout.useful_rows,
            len(layout.positions),
            images,
        )

    def forget(self, sequence: Sequence) -> None:
        """Drop what is held for a sequence that ended or begins again."""
        for place in range(len(sequence.request.images)):
            self.features.pop((sequence.number, place), None)

    @torch.inference_mode()
    def clear(self, sequence: Sequence, position: int) -> None:
        """Numbers where a wrong draft left none: even what is masked must be numbers."""
        if sequence.block_table:
            size = self.backend.cache.block_size
            self.backend.clear(slots_of(sequence.block_table, position, position + 1, size))

    def make_room(self) -> None:
        """After out of memory: give cached device memory back, so that a smaller step may fit."""
        self.backend.make_room()

    def _pieces(self, sequence: Sequence, first: int, last: int) -> Iterator[_Piece]:
        """The images that features first … last - 1 of a sequence belong to."""
        begin = 0
        merge = self.backend.model.config.vision_encoder.spatial_merge_size
        for place, image in enumerate(sequence.request.images):
            patches = self._num_patches(image)
            end = begin + patches // merge**2
            if begin < last and first < end:
                inside = max(first, begin) - begin, min(last, end) - begin
                yield _Piece((sequence.number, place), image, patches, *inside, ends=end <= last)
            begin = end

    def _encode_images(self, pieces: list[_Piece]) -> int:
        """Features for images that are reached for the first time, packed while the budget holds."""
        due = {piece.key: piece for piece in pieces if piece.key not in self.features}
        group: list[_Piece] = []
        size = 0
        for piece in due.values():
            if group and size + piece.patches > self.limits.token_budget:
                self._encode_group(group)
                group, size = [], 0
            group.append(piece)
            size += piece.patches
        if group:
            self._encode_group(group)
        return len(due)

    def _encode_group(self, group: list[_Piece]) -> None:
        pixels = [np.ascontiguousarray(piece.image.pixels) for piece in group]  # a tile is a view of its page
        features = self.backend.encode([to_device(image, self.device) for image in pixels])
        merge = self.backend.model.config.vision_encoder.spatial_merge_size
        lengths = [piece.patches // merge**2 for piece in group]
        for piece, last, length in zip(group, accumulate(lengths), lengths, strict=True):
            self.features[piece.key] = features[last - length : last]
        self.images_encoded += len(group)

    def _forget_passed(self, step: Step, pieces: list[_Piece]) -> None:
        for piece in pieces:
            if piece.ends:
                del self.features[piece.key]
        for chunk in step.chunks:
            if chunk.last >= chunk.sequence.request.image_end:
                self.forget(chunk.sequence)  # also what a shared prefix made needless

    def _num_patches(self, image: Image) -> int:
        return vision.num_patches(image.pixels.shape, self.backend.model.config.vision_encoder)

    def _sample(self, layout: Layout, hidden: Tensor) -> Tensor:
        """`Launched.sampled` of the first rows of `hidden`; the tokens are also kept on the device for the next step.

        Tokens and likelihoods go to the host as one tensor, for a copy costs more than the numbers in it.
        """
        count = len(layout.sample_rows)
        if not count:
            return torch.zeros(2, 0, dtype=torch.float64)
        logits = self.backend.logits(hidden)[:count]
        held = [row for row, one in enumerate(layout.sample_sequences) if one.constraint]
        if held:
            sampling.constrain(logits, held, _masks(layout))
        wanted = [sequence.request.sampling for sequence in layout.sample_sequences]
        uniforms = [
            sampling.uniform(want.seed, position) if want.temperature > 0 else 0.0
            for want, position in zip(wanted, layout.sample_positions, strict=True)
        ]
        tokens = sampling.choose(
            logits, [want.temperature for want in wanted], [want.top_p for want in wanted], uniforms
        )
        rows = np.asarray([sequence.row for sequence in layout.sample_sequences], np.int64)
        self.last_tokens.index_copy_(0, to_device(rows, self.device), tokens.clamp_min(0))
        return torch.stack((tokens.double(), sampling.log_probabilities(logits, tokens).double()))


def _masks(layout: Layout) -> NDArray[np.int32]:
    """Of the sampled rows under a constraint, in order: a sequence's drafted ones follow its own."""
    drafted: dict[Sequence, list[int]] = {}
    for sequence, draft in zip(layout.sample_sequences, layout.sample_drafts, strict=True):
        if sequence.constraint is not None:
            drafted.setdefault(sequence, []).extend([] if draft is None else [draft])
    return np.concatenate([one.constraint.masks(tokens) for one, tokens in drafted.items() if one.constraint])


def sample_rows(layout: Layout, backend: Backend) -> Tensor:
    """Rows of the pack to sample; padded, so that the head has one shape whoever else is sampled."""
    rows = np.zeros(backend.decode_rows(max(1, len(layout.sample_rows))), np.int64)
    rows[: len(layout.sample_rows)] = layout.sample_rows
    return to_device(rows, backend.device)
