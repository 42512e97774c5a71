"""Train the reader from nothing: `python -m benchmarks.reader.train --state FILE --out FOLDER --minutes 50`.

Everything the reader computes runs through the product's own packed forward (`workers.pixtral.model`),
with gradients. What is given from outside is what those functions take as arguments: who attends to whom (here
sequences of equal length, as one product a layer) and the row-wise arithmetic (here compiled, the same formulas).

Weights are bfloat16 copies of float32 masters. Muon turns the matrices inside the layers, AdamW the rest. The
curriculum (`lesson.STAGES`) begins with the alphabet (the encoder alone, which characters stand in which patch) and
moves on when the error on the newest pages falls below the stage's bound; pages are never repeated, so the error
printed is that of unseen pages, with the true text before each token.

Stopping is by `--minutes`, `--until-step` or a signal, whichever comes first; the state file then continues. The
learning rate falls to zero over the last `--cooldown` steps before `--until-step`.

Over 300 lines: model, losses and loop of one training, read from top to bottom.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.reader.draw import ALPHABET, TRAIN
from benchmarks.reader.lesson import IGNORED, NUM_SLOTS, STAGES, VOCABULARY, Lesson, draw_lessons, tokenizer
from workers.pixtral.model import decoder
from workers.pixtral.model.config import config_of
from workers.pixtral.model.layers import Operations, RMSNorm
from workers.pixtral.model.load import empty_model, initialise
from workers.pixtral.model.vision import Pixtral, encode_images, normalise

PARAMS: dict[str, Any] = {
    "dim": 192, "n_layers": 4, "head_dim": 48, "hidden_dim": 512, "n_heads": 4, "n_kv_heads": 2,
    "norm_eps": 1e-5, "vocab_size": VOCABULARY, "rope_theta": 1e4,
    "vision_encoder": {
        "hidden_size": 192, "num_channels": 3, "image_size": 1024, "patch_size": 16, "intermediate_size": 512,
        "num_hidden_layers": 4, "num_attention_heads": 4, "rope_theta": 100.0, "image_token_id": 10,
        "adapter_bias": True,
    },
}  # fmt: skip
BATCH, GROUP = 64, 8  # pages a step; steps whose pages are drawn together and sorted by length
WARM_UP = 100
RATE_MATRICES, RATE_REST = 2e-3, 1.5e-3
WEIGHT_SLOTS, WEIGHT_POINTER = 2.0, 0.3
GUIDED_LAYERS = (2, 3)  # their first head is shown where to look


def start(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The first value of a weight. Patch filters have zero mean: a plain background, light or dark, is nothing."""
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    weight = torch.randn(shape, generator=generator)
    part = name.split(".")[-2]
    if part == "patch_conv":
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
    if part == "tok_embeddings":
        return 0.5 * weight
    gain = {"wo": 0.3, "w2": 0.3, "output": 0.5}.get(part, 1.0)
    return gain * weight / weight[0].numel() ** 0.5


def _norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = rows.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(rows.dtype) * weight


def _add_norm(rows: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = rows + update
    return rows, _norm(rows, weight, eps)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """query (B, T, H, D), key and value (B, T, H_kv, D), causal → (B, T, H, D), and the first head's (B, T, T)."""
    num_pages, length, heads, size = query.shape
    kv_heads = key.shape[2]
    grouped = query.view(num_pages, length, kv_heads, -1, size).permute(0, 2, 3, 1, 4).flatten(2, 3)
    scores = grouped @ key.permute(0, 2, 3, 1)  # (B, H_kv, G × T, T)
    scores = scores.view(num_pages, kv_heads, -1, length, length).float() * size**-0.5
    steps = torch.arange(length, device=query.device)
    scores = scores.masked_fill(steps[:, None] < steps, -1e30)
    shares = scores.softmax(-1).to(query.dtype)
    out = shares.flatten(2, 3) @ value.transpose(1, 2)  # (B, H_kv, G × T, D)
    out = out.view(num_pages, kv_heads, -1, length, size).permute(0, 3, 1, 2, 4)
    return out.reshape(num_pages, length, heads, size), shares[:, 0, 0]


def _rotate(heads: Tensor, rotation: Tensor, swap: Tensor) -> Tensor:
    """The product's rotation with its pairs swapped by a matrix of 0, 1 and -1: interleaved stores are slow."""
    cos, sin = (rotation[..., part].repeat_interleave(2, dim=-1)[:, None] for part in (0, 1))  # (T, 1, D)
    return (heads.float() * cos + (heads @ swap).float() * sin).to(heads.dtype)


class Fused(Operations):
    """The product's row-wise formulas, each compiled into one pass."""

    def __init__(self) -> None:
        super().__init__()
        plain = Operations()
        self._norm = torch.compile(_norm, dynamic=True)
        self._add_norm = torch.compile(_add_norm, dynamic=True)
        self._gate = torch.compile(plain.gate, dynamic=True)
        self._rotate = torch.compile(_rotate, dynamic=True)
        self._swaps: dict[tuple[int, torch.device], Tensor] = {}

    def rms_norm(self, rows: Tensor, norm: RMSNorm) -> Tensor:
        return self._norm(rows, norm.weight, norm.eps)

    def add_rms_norm(self, rows: Tensor, update: Tensor, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        return self._add_norm(rows, update, norm.weight, norm.eps)

    def gate(self, both: Tensor) -> Tensor:
        return self._gate(both)

    def rotate(self, heads: Tensor, rotation: Tensor) -> Tensor:
        place = (heads.shape[-1], heads.device)
        if place not in self._swaps:
            pairs = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=heads.dtype)  # (even, odd) → (-odd, even)
            self._swaps[place] = torch.block_diag(*[pairs] * (heads.shape[-1] // 2)).to(heads.device)
        return self._rotate(heads, rotation, self._swaps[place])


class Trainer:
    """The model, its masters, their optimizers, and how far it has come."""

    def __init__(self, seed: int, device: torch.device, compiled: bool, last_stage: int) -> None:
        self.seed, self.device, self.last_stage = seed, device, last_stage
        model = initialise(empty_model(config_of(PARAMS)), lambda name, shape: start(name, shape, seed).bfloat16())
        self.model: Pixtral = model.to(device)
        self.helper = nn.Parameter(torch.zeros(NUM_SLOTS * (len(ALPHABET) + 1), PARAMS["dim"], device=device))
        self.masters = {
            name: start(name, tuple(weight.shape), seed).to(device) for name, weight in self.model.named_parameters()
        }
        matrices = [weight for name, weight in self.masters.items() if ".layers." in f".{name}" and weight.ndim == 2]
        rest = [w for w in self.masters.values() if not any(w is m for m in matrices)] + [self.helper]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=RATE_MATRICES, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=RATE_REST, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.runner = decoder.Runner(Fused() if compiled else None)
        self.attend = torch.compile(_attend, dynamic=True) if compiled else _attend
        self.step = self.stage = self.pages = 0
        self.seconds = 0.0
        self.error = 1.0  # moving average on the newest stage's pages
        self.curve: list[dict[str, float]] = []
        self.group: list[Lesson] = []

    def next_lesson(self) -> Lesson:
        """A pure function of seed, step and stage."""
        offset = self.step % GROUP
        if offset == 0 or not self.group:
            index = self.step // GROUP
            self.group = draw_lessons(TRAIN, self.seed, index, STAGES[self.stage], BATCH, GROUP)
        return self.group[offset].to(self.device)

    def forward(self, lesson: Lesson) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts."""
        model, (num_pages, length) = self.model, lesson.token_ids.shape
        features = encode_images(model, list(normalise(lesson.images)), self.runner)
        slots = F.linear(features, self.helper.to(features.dtype)).float().view(-1, len(ALPHABET) + 1)
        slots_loss = F.cross_entropy(slots, lesson.slots.flatten())
        filled = lesson.slots.flatten() > 0
        parts = {
            "slots": slots_loss.detach(),
            "unseen": (slots.argmax(-1) != lesson.slots.flatten())[filled].float().mean(),
        }
        if STAGES[self.stage].only_encoder:
            return slots_loss, parts | {"error": parts["unseen"]}
        answers = slice(lesson.first, lesson.first + lesson.targets.shape[1])
        pointed: list[Tensor] = []

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            parts = [x.view(num_pages, length, *x.shape[1:]) for x in (query, key, value)]
            out, shares = self.attend(*parts)
            if layer in GUIDED_LAYERS:
                pointed.append(shares[:, answers].gather(-1, lesson.pointers[..., None]).squeeze(-1))
            return out.flatten(0, 1).flatten(1)

        hidden = decoder.embed(model, lesson.token_ids.flatten(), features)
        positions = torch.arange(length, device=self.device).repeat(num_pages)
        hidden = decoder.run_layers(model, hidden, positions, attend, self.runner)
        hidden = hidden.view(num_pages, length, -1)[:, answers].flatten(0, 1)
        logits = decoder.logits(model, hidden).float()
        targets = lesson.targets.flatten()
        text_loss = F.cross_entropy(logits, targets, ignore_index=IGNORED)
        has_pointer = lesson.pointers > 0
        pointer_loss = sum(-share.float().clamp_min(1e-6).log()[has_pointer].mean() for share in pointed)
        loss = text_loss + WEIGHT_SLOTS * slots_loss + WEIGHT_POINTER * pointer_loss
        wrong = (logits.argmax(-1) != targets).view(num_pages, -1) & (lesson.targets != IGNORED)
        is_ocr = lesson.is_ocr
        parts |= {
            "text": text_loss,
            "pointer": pointer_loss / len(GUIDED_LAYERS),
            "error": wrong[is_ocr].sum() / (lesson.targets[is_ocr] != IGNORED).sum(),
            "describe": wrong[~is_ocr].sum() / (lesson.targets[~is_ocr] != IGNORED).sum(),
        }
        return loss, {name: part.detach() for name, part in parts.items()}

    def train_step(self, until_step: int, cooldown: int) -> dict[str, float]:
        lesson = self.next_lesson()
        with sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else torch.enable_grad():
            loss, parts = self.forward(lesson)
            loss.backward()
        share = min(1.0, (self.step + 1) / WARM_UP, max(0.02, (until_step - self.step) / max(cooldown, 1)))
        weights = dict(self.model.named_parameters())
        for name, master in self.masters.items():
            gradient = weights[name].grad
            master.grad = None if gradient is None else gradient.float()
            weights[name].grad = None
        for optimizer, rate in zip(self.optimizers, (RATE_MATRICES, RATE_REST), strict=True):
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
            optimizer.param_groups[0]["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            for name, master in self.masters.items():
                weights[name].copy_(master)
        self.step += 1
        self.pages += len(lesson.images)
        figures = {name: float(part) for name, part in parts.items()}
        width, height = STAGES[self.stage].canvas
        if lesson.images.shape[1:3] == (height, width) and figures["error"] == figures["error"]:
            self.error += 0.05 * (figures["error"] - self.error)
        if self.step % GROUP == 0 and self.error < STAGES[self.stage].done_below and self.stage < self.last_stage:
            self.stage, self.error = self.stage + 1, 1.0
        return figures

    def state(self) -> dict[str, Any]:
        names = ("step", "stage", "pages", "seconds", "error", "curve", "seed")
        return {
            "masters": self.masters,
            "helper": self.helper.data,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            **{name: getattr(self, name) for name in names},
        }

    def resume(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                self.masters[name].copy_(state["masters"][name])
                weight.copy_(self.masters[name])
            self.helper.copy_(state["helper"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name in ("step", "stage", "pages", "seconds", "error", "curve", "seed"):
            setattr(self, name, state[name])


def save(trainer: Trainer, state: Path, out: Path) -> None:
    """The state to continue from, and the checkpoint as it stands; each file replaced at once."""
    state.parent.mkdir(parents=True, exist_ok=True)
    torch.save(trainer.state(), state.with_suffix(".new"))
    state.with_suffix(".new").replace(state)
    out.mkdir(parents=True, exist_ok=True)
    (out / "params.json").write_text(json.dumps(PARAMS, indent=1) + "\n", encoding="utf-8")
    (out / "tekken.json").write_text(json.dumps(tokenizer()) + "\n", encoding="utf-8")
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in trainer.model.named_parameters()}
    save_file(tensors, out / "consolidated.safetensors.new")
    (out / "consolidated.safetensors.new").replace(out / "consolidated.safetensors")
    (out / "curve.json").write_text(json.dumps(trainer.curve) + "\n", encoding="utf-8")


def train(trainer: Trainer, args: argparse.Namespace) -> None:
    began = reported = saved = time.monotonic()
    earlier, figures, count = trainer.seconds, {}, 0
    pages = trainer.pages
    stops: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _frame: stops.append(signum))
    while not stops and trainer.step < args.until_step and time.monotonic() - began < args.minutes * 60:
        for name, figure in trainer.train_step(args.until_step, args.cooldown).items():
            if figure == figure:
                figures.setdefault(name, []).append(figure)
        count += 1
        now = time.monotonic()
        trainer.seconds = earlier + now - began
        if now - reported > 10 or count in (1, 5):
            means = {name: round(sum(values) / len(values), 4) for name, values in figures.items()}
            rate = round((trainer.pages - pages) / (now - reported), 1)
            point = {
                "step": trainer.step, "seconds": round(trainer.seconds), "stage": trainer.stage,
                "pages": trainer.pages, "pages_per_second": rate, "average": round(trainer.error, 4), **means,
            }  # fmt: skip
            trainer.curve.append(point)
            print(json.dumps(point), flush=True)
            reported, pages, figures = now, trainer.pages, {}
        if now - saved > 120:
            save(trainer, args.state, args.out)
            saved = now
    save(trainer, args.state, args.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--state", type=Path, required=True, help="continue from this file, and save to it")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint folder")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--until-step", type=int, default=1_000_000)
    parser.add_argument("--cooldown", type=int, default=0)
    parser.add_argument("--last-stage", type=int, default=len(STAGES) - 1, help="where the curriculum ends")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0 leaves it to torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    trainer = Trainer(args.seed, torch.device(args.device), not args.no_compile, args.last_stage)
    if args.state.is_file():
        trainer.resume(torch.load(args.state, map_location=args.device, weights_only=True))
        print(f"continues at step {trainer.step}, stage {trainer.stage}", flush=True)
    train(trainer, args)


if __name__ == "__main__":
    main()
