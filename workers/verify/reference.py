"""The same pages and answers through mistral-inference, one page at a time: what the checkpoint was published with.

The only place that imports it. It is asked for the logits after each token of the engine's own answer, in one forward
through its cache, so that one other token does not change all that follow. Of its attention, xformers, there are
kernels for GPUs alone; elsewhere, and where they do not run, plain attention under the same mask takes their place.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.prompts import OCR
from workers.pixtral.model.config import read_config
from workers.pixtral.model.fingerprint import read_header, weight_files
from workers.pixtral.start import available_bytes
from workers.verify.packed import Reading

# Of params.json, what mistral-inference passes over in silence, or fails at.
UNKNOWN_TO_IT = ("yarn", "llama_4_scaling", "tied_embeddings", "quantization")
ROOM_BYTES = 2_000_000_000  # beside the weights: one page's activations, cache and logits


class NotHere(Exception):
    """Why the reference cannot be asked here, and the way out."""


def version() -> str | None:
    """Of mistral-inference; None where it is not installed."""
    try:
        return importlib.metadata.version("mistral-inference")
    except importlib.metadata.PackageNotFoundError:
        return None


def read_reference(
    folder: Path, device: torch.device, dtype: torch.dtype, readings: Sequence[Reading]
) -> list[tuple[list[int], Tensor]]:
    """Of each reading: the prompt's tokens as mistral-common lays them out, and logits beside each token (T, V).

    Raises:
        NotHere: it is not installed, does not load, does not fit beside nothing else, or computes another model.
    """
    config = read_config(folder)
    if unknown := [key for key in UNKNOWN_TO_IT if getattr(config, key)]:
        raise NotHere(f"mistral-inference does not know {', '.join(unknown)}, which this checkpoint's params.json has")
    if version() is None:
        raise NotHere("mistral-inference is not installed; `pip install mistral-inference==1.6.0 xformers`, then again")
    _check_room(folder, device, dtype)
    try:
        import mistral_inference.transformer_layers as layers
        from mistral_inference.cache import BufferCache
        from mistral_inference.transformer import Transformer
    except Exception as error:  # xformers beside another torch fails in many ways
        raise NotHere(f"mistral-inference does not load here: {type(error).__name__}: {error}") from error
    theirs = layers.memory_efficient_attention
    try:
        model = Transformer.from_folder(folder, device=device, dtype=dtype)
        model.eval()
        if device.type != "cuda":
            layers.memory_efficient_attention = plain_attention

        def once(reading: Reading) -> tuple[list[int], Tensor]:
            return _read(model, BufferCache, folder, reading)

        with torch.inference_mode():
            try:
                return [once(reading) for reading in readings]
            except NotImplementedError:  # no kernel of xformers for this device or type
                layers.memory_efficient_attention = plain_attention
                return [once(reading) for reading in readings]
    except (AssertionError, KeyError, TypeError, ValueError) as error:  # a checkpoint of a kind that it does not know
        raise NotHere(f"mistral-inference does not take this checkpoint: {type(error).__name__}: {error}") from error
    finally:
        layers.memory_efficient_attention = theirs


def _check_room(folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """On the device, and on the host, through which it loads all weights."""
    host = torch.device("cpu")
    shapes = [entry["shape"] for path in weight_files(folder) for entry in read_header(path).values()]
    weights = sum(map(math.prod, shapes)) * dtype.itemsize
    for place in dict.fromkeys((device, host)):
        free = torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else 2 * available_bytes(place)
        needed = weights + ROOM_BYTES * (place == device)
        if needed > free:
            raise NotHere(
                f"mistral-inference needs {needed / 1e9:.1f} GB on {place}, where {free / 1e9:.1f} GB are free now "
                "that the engine is closed; free some, or take a larger machine"
            )


def _read(model: Any, cache_class: Callable[..., Any], folder: Path, reading: Reading) -> tuple[list[int], Tensor]:
    from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
    from mistral_common.protocol.instruct.messages import UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    from PIL import Image

    tokenizer = MistralTokenizer.from_file(str(folder / "tekken.json"))
    content: list[Any] = [ImageChunk(image=Image.fromarray(reading.page.pixels)), TextChunk(text=OCR.text)]
    encoded: Any = tokenizer.encode_chat_completion(ChatCompletionRequest(messages=[UserMessage(content=content)]))
    prompt, answer = list(encoded.tokens), reading.tokens[: max(0, len(reading.logits) - 1)]
    ids = torch.tensor(prompt + answer, device=model.device)
    images = [torch.from_numpy(image).to(model.device, model.dtype) for image in encoded.images]
    args = model.args
    cache = cache_class(args.n_layers, 1, len(ids), args.n_kv_heads, args.head_dim).to(model.device, model.dtype)
    hidden = model.forward_partial(ids, [len(ids)], cache=cache, images=images)
    wanted = hidden[len(prompt) - 1 : len(prompt) - 1 + len(reading.logits)]
    return prompt, model.output(wanted).float().cpu()


def plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Any = None) -> Tensor:
    """xformers' attention: (1, T, H, D) each, under the same mask."""
    mask = None
    if bias is not None:
        shape = (query.shape[1], key.shape[1])
        mask = bias.materialize(shape, dtype=query.dtype, device=query.device)
    one, two, three = (part.transpose(1, 2) for part in (query, key, value))
    out = torch.nn.functional.scaled_dot_product_attention(one, two, three, attn_mask=mask)
    return out.transpose(1, 2).contiguous()
