"""A batch of pages as the reader is taught them: tokens, targets, and two helpers that point where to look.

    [BOS] [INST] image tokens  prompt  [/INST]  answer  [EOS]        the order of the product's own template

The tokenizer is single bytes and a few whole phrases. Both catalogue prompts are one token each: tiktoken takes a piece
that is in its vocabulary as it is, and the pattern cuts out exactly these two texts. Should the catalogue's wording
change, `tekken.json` is written again and no weight moves, since the ids stay.

Helpers, used in training only (they fall away with their loss, the architecture keeps no trace):
    slots     which characters have their middle in this patch, left to right: what the encoder's features must tell
    pointer   the image token that holds the next character: where one head of the decoder's later layers must look
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.reader.draw import ALPHABET, PATCH_PX, Layout, centres, generator, lay_out, render
from schemas.prompts import DESCRIBE, OCR

BOS, EOS, INST, END_INST, IMG, IMG_BREAK, IMG_END = 1, 2, 3, 4, 10, 12, 13
NUM_SPECIAL = 20
PHRASES = (" lines, ", " line, ", " characters, ", " character, ", "dark on light", "light on dark")
PROMPT_IDS = {OCR.name: NUM_SPECIAL + 256, DESCRIBE.name: NUM_SPECIAL + 257}
PHRASE_IDS = {phrase: NUM_SPECIAL + 258 + index for index, phrase in enumerate(PHRASES)}
VOCABULARY = NUM_SPECIAL + 258 + len(PHRASES)
NUM_SLOTS = 3  # characters are 8.4 to 9.4 px apart, so a patch of 16 px holds at most two middles, at worst three
IGNORED = -100
SHARE_DESCRIBE = 0.12


def tokenizer(max_image_size: int = 1024) -> dict[str, Any]:
    """The content of tekken.json."""
    prompts = [OCR.text, DESCRIBE.text]
    texts = [bytes([byte]) for byte in range(256)] + [text.encode() for text in (*prompts, *PHRASES)]
    vocab = [
        {
            "rank": rank,
            "token_bytes": base64.b64encode(text).decode(),
            "token_str": text.decode(errors="replace"),
        }
        for rank, text in enumerate(texts)
    ]
    config = {
        "pattern": "|".join([*map(re.escape, prompts), r"[\s\S]"]),
        "num_vocab_tokens": len(vocab),
        "default_vocab_size": VOCABULARY,
        "default_num_special_tokens": NUM_SPECIAL,
        "version": "v3",
    }
    image = {"image_patch_size": PATCH_PX, "max_image_size": max_image_size}
    return {"config": config, "vocab": vocab, "image": image}


def answer_ids(layout: Layout, prompt: str) -> list[int]:
    """Without the end token."""
    if prompt == OCR.name:
        return [NUM_SPECIAL + byte for byte in layout.text.encode()]
    pieces = re.split("(" + "|".join(map(re.escape, PHRASES)) + ")", layout.description)
    ids: list[int] = []
    for piece in pieces:
        ids += [PHRASE_IDS[piece]] if piece in PHRASE_IDS else [NUM_SPECIAL + byte for byte in piece.encode()]
    return ids


def prompt_ids(width_px: int, height_px: int, prompt: str) -> list[int]:
    columns, rows = width_px // PATCH_PX, height_px // PATCH_PX
    image = ([IMG] * columns + [IMG_BREAK]) * rows
    image[-1] = IMG_END
    return [BOS, INST, *image, PROMPT_IDS[prompt], END_INST]


@dataclass(frozen=True, slots=True)
class Lesson:
    """B pages of one size; T tokens each, filled up with EOS whose targets are ignored."""

    images: Tensor  # (B, H, W, 3) uint8
    token_ids: Tensor  # (B, T)
    targets: Tensor  # (B, A): the token after positions first … first + A - 1, or IGNORED
    first: int  # the last prompt position: where the answer's first token is foretold
    slots: Tensor  # (B × P, NUM_SLOTS): index into ALPHABET + 1, 0 for none
    pointers: Tensor  # (B, A): the position of the image token to look at, or 0 for none
    is_ocr: Tensor  # (B,)

    def to(self, device: torch.device) -> Lesson:
        moved = {
            name: getattr(self, name).to(device)
            for name in ("images", "token_ids", "targets", "slots", "pointers", "is_ocr")
        }
        return Lesson(first=self.first, **moved)


@dataclass(frozen=True, slots=True)
class Stage:
    """What the curriculum has reached: the largest canvas, the longest lines on it, and the error that ends it."""

    canvas: tuple[int, int]
    max_lines: int
    max_characters: int
    done_below: float
    only_encoder: bool = False


STAGES = (
    Stage((192, 64), 3, 22, 0.20, only_encoder=True),
    Stage((192, 64), 3, 22, 0.02),
    Stage((256, 128), 6, 30, 0.0),
)
SHARE_LARGEST = 0.65
HALF_BATCH_ABOVE_PX = 192 * 64  # more text a page, so fewer pages a step


def draw_lessons(space: int, seed: int, index: int, stage: Stage, batch: int, count: int) -> list[Lesson]:
    """`count` batches of pages of one canvas, alike in length inside a batch, in an order that the seed gives."""
    rng = generator(space, seed, index)
    canvas, limit = stage.canvas, stage
    if rng.random() > SHARE_LARGEST:  # easy pages stay in the mix
        canvas = tuple(int(rng.integers(2, side // PATCH_PX + 1)) * PATCH_PX for side in stage.canvas)
    if canvas[0] * canvas[1] > HALF_BATCH_ABOVE_PX:
        batch //= 2
    pages = [
        (
            lay_out(rng, canvas, limit.max_characters, limit.max_lines),
            DESCRIBE.name if rng.random() < SHARE_DESCRIBE else OCR.name,
        )
        for _ in range(batch * count)
    ]
    pages.sort(key=lambda page: len(answer_ids(*page)))
    return [lesson(pages[number * batch : (number + 1) * batch]) for number in rng.permutation(count)]


def lesson(pages: Sequence[tuple[Layout, str]]) -> Lesson:
    """Pages of one size with the prompt asked about each."""
    width, height = pages[0][0].width_px, pages[0][0].height_px
    columns, rows = width // PATCH_PX, height // PATCH_PX
    answers = [[*answer_ids(layout, prompt), EOS] for layout, prompt in pages]
    longest = -(-max(map(len, answers)) // 8) * 8
    num_prompt = len(prompt_ids(width, height, OCR.name))
    token_ids = np.full((len(pages), num_prompt + longest), EOS)
    targets = np.full((len(pages), longest), IGNORED)
    pointers = np.zeros((len(pages), longest), np.int64)
    slots = np.zeros((len(pages), rows * columns, NUM_SLOTS), np.int64)
    for number, ((layout, prompt), answer) in enumerate(zip(pages, answers, strict=True)):
        token_ids[number, :num_prompt] = prompt_ids(width, height, prompt)
        token_ids[number, num_prompt : num_prompt + len(answer)] = answer
        targets[number, : len(answer)] = answer
        taken: dict[int, int] = {}
        for index, x, y in centres(layout):
            row, column = int(y) // PATCH_PX, int(x) // PATCH_PX
            patch = row * columns + column
            slot = taken.get(patch, 0)
            taken[patch] = slot + 1
            if slot < NUM_SLOTS:
                slots[number, patch, slot] = ALPHABET.index(layout.text[index]) + 1
            if prompt == OCR.name:
                pointers[number, index] = 2 + row * (columns + 1) + column
    return Lesson(
        torch.from_numpy(np.stack([render(layout) for layout, _ in pages])),
        torch.from_numpy(token_ids),
        torch.from_numpy(targets),
        num_prompt - 1,
        torch.from_numpy(slots.reshape(-1, NUM_SLOTS)),
        torch.from_numpy(pointers),
        torch.tensor([prompt == OCR.name for _, prompt in pages]),
    )
