"""What read a page: one word for a checkpoint's parameters, tokenizer and weights.

A checkpoint of 12 B parameters has 25 GB, too many to hash before a batch is submitted. So the fingerprint is the
SHA-256 of params.json (as JSON, so that spacing does not count), of tekken.json, of every safetensors header (names,
types, shapes) and of bytes of every tensor: all of them where the files together have at most 256 MB, else 16
pieces of 4 KiB spread over each tensor (about 40 MB read for Pixtral 12B). Two checkpoints that differ only between
the pieces would share a fingerprint; a training step moves nearly every weight, so this takes intent.

Needs no torch: the process that submits pages computes it too.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import UsageError

WHOLE_BYTES = 256 * 2**20
PIECES, PIECE_BYTES = 16, 4096
MAX_HEADER_BYTES = 100 * 2**20  # the limit of the safetensors format itself
_SERVER = "or have a server read with this one: --engine endpoint --endpoint-url URL"
WAY_OUT = f"give a checkpoint that docs/models.md names, {_SERVER}"
QUANTIZED_WAY_OUT = f"give a checkpoint in bf16, with --quantize int8 where the card is small, {_SERVER}"


def weight_files(folder: Path) -> list[Path]:
    """`consolidated.safetensors`, or its shards in order.

    Raises:
        UsageError: the folder holds none.
    """
    files = sorted(folder.glob("consolidated*.safetensors"))
    if not files:
        raise UsageError(lacks(folder, "consolidated*.safetensors"))
    return files


def adapter_files(folder: Path) -> list[Path]:
    """`lora.safetensors`, which is merged into the weights, where the folder has one."""
    adapter = folder / "lora.safetensors"
    return [adapter] if adapter.is_file() else []


def lacks(folder: Path, name: str) -> str:
    """The message that a file is not there; most often the folder is in Hugging Face's format, as other tools want."""
    if not folder.is_dir():
        fact = "is a file" if folder.exists() else "is not there"
        return f"the checkpoint {folder} {fact}; give the folder that holds params.json"
    if name == "tekken.json" and (other := sorted(path.name for path in folder.glob("tokenizer.model*"))):
        return (
            f"{folder} holds {other[0]} in place of tekken.json: a SentencePiece tokenizer, as Pixtral Large has it, "
            f"is not read; {WAY_OUT}"
        )
    theirs = [path.name for pattern in ("config.json", "model*.safetensors") for path in folder.glob(pattern)]
    if not theirs:
        return f"{folder} holds no {name}; is it a checkpoint in Mistral's own format?"
    return (
        f"{folder} holds no {name}, but {min(theirs)}: it is in Hugging Face's format, and pagepack reads Mistral's "
        "own. Download params.json, consolidated.safetensors and tekken.json of the same model, like `hf download "
        "mistralai/Pixtral-12B-2409 params.json consolidated.safetensors tekken.json --local-dir DIR`"
    )


def read_params(folder: Path) -> dict[str, Any]:
    """params.json as it is.

    Raises:
        UsageError: the folder or the file is absent, or it is not a JSON object.
    """
    path = folder / "params.json"
    if not folder.is_dir():
        raise UsageError(f"{folder.absolute()} is not a folder; --model takes a folder in Mistral's format")
    try:
        params = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(lacks(folder, "params.json")) from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read: {error}; download it again") from error
    if not isinstance(params, dict):
        raise UsageError(f"{path} is not a JSON object; download it again")
    return params


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor name → {"dtype", "shape", "data_offsets"} with offsets from the start of the file.

    Raises:
        UsageError: the file is cut short or damaged; the message names it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER_BYTES + 1
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise UsageError(f"{path} is damaged: no safetensors header of {length:,} bytes fits; download it again")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        for entry in header.values():
            first, last = entry["data_offsets"]
            entry["data_offsets"] = [first + 8 + length, last + 8 + length]
            _ = entry["dtype"], list(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged: its safetensors header cannot be read; download it again") from error
    for name, entry in header.items():
        if entry["data_offsets"][1] > size:
            raise UsageError(f"{path} is cut short: tensor {name} ends past its {size:,} bytes; download it again")
    return header  # type: ignore[no-any-return]


def fingerprint(folder: Path, kind: str | None = None, *, narrow_cache: bool = False) -> str:
    """`pixtral-` and 16 hex digits; see the top of this file for what they cover.

    Weights that are quantized write other words: their `kind` follows, as in `pixtral-0123456789abcdef-int8`. So
    does a narrow cache, as in `pixtral-0123456789abcdef-kvfp8`.

    Raises:
        UsageError: params.json or weights are absent or damaged.
    """
    digest = hashlib.sha256(json.dumps(read_params(folder), sort_keys=True).encode())
    tokenizer = folder / "tekken.json"
    digest.update(hashlib.sha256(tokenizer.read_bytes() if tokenizer.is_file() else b"").digest())
    files = [*weight_files(folder), *adapter_files(folder)]
    whole = sum(path.stat().st_size for path in files) <= WHOLE_BYTES
    entries = [(name, path, entry) for path in files for name, entry in read_header(path).items()]
    for name, path, entry in sorted(entries, key=lambda item: (item[0], item[1].name)):
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        with path.open("rb") as file:
            _hash_tensor(digest, file, *entry["data_offsets"], whole=whole)
    narrow = (kind, "kvfp8" if narrow_cache else None)
    return "-".join(["pixtral", digest.hexdigest()[:16], *filter(None, narrow)])


def check_unchanged(folder: Path, loaded: str, wanted: str) -> None:
    """Raises UsageError: the fingerprints are of two checkpoints, however narrow their weights and cache are."""
    one, other = ("-".join(each.split("-")[:2]) for each in (loaded, wanted))
    if one != other:
        raise UsageError(
            f"the checkpoint {folder} changed while it was in use: the pages of this run wait for {wanted}, and it is "
            f"{loaded} now; let whoever writes to the folder end, and give the same command again"
        )


def _hash_tensor(digest: Any, file: BinaryIO, first: int, last: int, *, whole: bool) -> None:
    if whole or last - first <= PIECES * PIECE_BYTES:
        file.seek(first)
        digest.update(file.read(last - first))
        return
    for piece in range(PIECES):
        file.seek(first + (last - first - PIECE_BYTES) * piece // (PIECES - 1))
        digest.update(file.read(PIECE_BYTES))
