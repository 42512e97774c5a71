"""Checkpoints that write what a test wants, by real decoding: each token alone decides the next.

Embeddings are one-hot, the one layer adds nothing but the mean of what stands before, and the head maps each token's
place to the logit of its successor. So a chain that comes back to an earlier token is a loop, and greedy decoding never
leaves it. Where it may end, EOS has a logit too:

    by chance   EOS is a little less likely than the next copy: it needs a temperature
    turned      the more rows an image has for its patches, the likelier EOS: a page on its side is read to the end
    tiles       the more images a prompt of some 500 tokens has, the likelier EOS
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.checkpoint import random_tensors, tiny_tokenizer, write_checkpoint

BOS, EOS, END_INST, IMG_BREAK, IMG_END = 1, 2, 4, 12, 13
FIRST_BYTE = 20
LOGIT = 12.0  # of the next token; all others have 0, so chance takes none of them


def chain_checkpoint(
    folder: Path,
    before: Sequence[str],
    loop: Sequence[str],
    *,
    ends: str | None = None,
    closeness: float = 0.9,
    words: tuple[str, ...] = (),
) -> Path:
    """A folder whose model writes `before`, then `loop` for ever; each is a list of words or single characters.

    A token stands in the chain once. With `ends` None nothing ends it; else EOS may come in place of a next copy: its
    logit is `closeness` times that copy's, and more by the share of the tokens before that `ends` names.
    """
    words = words or tuple(word for word in (*before, *loop) if len(word.encode()) > 1)
    ids = [FIRST_BYTE + word.encode()[0] if len(word.encode()) == 1 else 276 + words.index(word) for word in before]
    ring = [FIRST_BYTE + word.encode()[0] if len(word.encode()) == 1 else 276 + words.index(word) for word in loop]
    chain = [END_INST, *ids, *ring]
    assert len(set(chain)) == len(chain), "a token decides its successor, so each stands there once"
    params = _params(276 + len(words), dim=-(-(len(chain) + 1) // 16) * 16)
    tensors = {name: torch.zeros_like(tensor) for name, tensor in random_tensors(params).items()}
    for name, tensor in tensors.items():
        if name.endswith("norm.weight") or name.endswith("ln_pre.weight"):
            tensor.fill_(1.0)
    places = {token: place for place, token in enumerate(chain)}
    counted = len(chain)  # where the share of breaks, or of image ends, comes to stand
    for token, place in places.items():
        tensors["tok_embeddings.weight"][token, place] = 1.0
    scale = LOGIT / params["dim"] ** 0.5  # the final norm makes √dim of a one-hot row
    for token, after in zip(chain, [*chain[1:], ring[0]], strict=True):
        tensors["output.weight"][after, places[token]] = scale
    if ends is not None:
        tensors["output.weight"][EOS, [places[token] for token in chain]] = -8 * scale
        tensors["output.weight"][EOS, places[ring[-1]]] = closeness * scale
    if ends in ("turned", "tiles"):
        _count(tensors, params, IMG_BREAK if ends == "turned" else IMG_END, counted, scale)
    return write_checkpoint(folder, params, tensors, tiny_tokenizer(words=words))


def _count(tensors: Mapping[str, Tensor], params: Mapping[str, Any], token: int, place: int, scale: float) -> None:
    """Attention over all that stands before, alike, brings the share of one token; EOS's logit rises with it."""
    tensors["tok_embeddings.weight"][token, place] = 1.0
    tensors["layers.0.attention.wv.weight"][0, place] = params["dim"] ** -0.5  # the norm before made √dim of it
    tensors["layers.0.attention.wo.weight"][place, 0] = 1.0
    tensors["output.weight"][EOS, place] = (4 if token == IMG_BREAK else 1016) * scale


def _params(vocabulary: int, dim: int) -> dict[str, Any]:
    vision = {"hidden_size": 32, "num_channels": 3, "image_size": 1024, "patch_size": 16, "intermediate_size": 32}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "rope_theta": 1e4, "image_token_id": 10}
    shape = {"dim": dim, "n_layers": 1, "head_dim": 16, "hidden_dim": 32, "n_heads": 2, "n_kv_heads": 1}
    more = {"norm_eps": 1e-5, "vocab_size": vocabulary, "rope_theta": 1e4}
    return shape | more | {"vision_encoder": vision | {"adapter_bias": True}}
