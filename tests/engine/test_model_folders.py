"""What `pagepack doctor --model DIR` says of a folder; what refuses one that is no checkpoint in the right format."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from pipeline.errors import UsageError
from pipeline.settings import Settings
from tests.running import call, pagepack, write_pdf
from workers import devices, doctor
from workers.doctor import check_engines
from workers.engines.pixtral import PixtralEngine
from workers.pixtral import start

pytestmark = pytest.mark.xdist_group("reader")  # one process, of which runs with a model are forked, imports torch

CHECKPOINT = Path(__file__).parents[2] / "benchmarks" / "reader" / "checkpoint"
DOWNLOAD = "hf download mistralai/Pixtral-12B-2409 params.json consolidated.safetensors tekken.json --local-dir DIR"


def a_copy(tmp_path: Path) -> Path:
    """The shipped checkpoint, to take something away from."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "model"))


def found(folder: Path) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in check_engines(Settings(model=folder))}


def test_doctor_says_that_a_checkpoint_fits_and_how_many_pages_at_once(tmp_path: Path) -> None:
    asked = call("doctor", "--home", tmp_path, "--model", CHECKPOINT, "--json", PAGEPACK_INTERNAL_ENGINE="")
    assert asked.returncode == 0, asked.stdout
    checks = {check["name"]: check for check in json.loads(asked.stdout)}
    assert checks["model"]["state"] == "ok"
    fits = re.fullmatch(rf"{re.escape(str(CHECKPOINT))} fits .+, (\d+) pages at once: (.+)", checks["model"]["fact"])
    assert fits and fits[2].endswith(f"{fits[1]} sequences at once")
    engine = PixtralEngine(CHECKPOINT)
    engine.close()
    assert engine.capacity == 2 * int(fits[1])


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_doctor_and_the_log_say_the_same_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stored: torch.dtype
) -> None:
    from benchmarks.checkpoint import make_checkpoint

    folder = make_checkpoint(tmp_path / "tiny", "tiny", dtype=stored)
    monkeypatch.setattr(start, "available_bytes", lambda device: 3_000_000_000)  # it changes from moment to moment
    with caplog.at_level("INFO", "workers.pixtral"):
        PixtralEngine(folder).close()
    logged = next(record.message for record in caplog.records if "GB granted" in record.message)
    checks = found(folder)
    assert logged == f"{checks['attention']['fact']}; {checks['model']['fact'].partition(' at once: ')[2]}"


def test_doctor_without_a_checkpoint_knows_no_type() -> None:
    fact = next(check["fact"] for check in check_engines(Settings()) if check["name"] == "attention")
    assert fact.endswith("where the weights are bfloat16; --model DIR looks at yours")


def test_a_checkpoint_that_does_not_fit_is_told_with_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "available_bytes", lambda device: 10_000_000)
    check = found(CHECKPOINT)["model"]
    assert check["state"] == "broken"
    assert "too little memory for one page (0.0 GB granted - " in check["fact"] and "free some" in check["fact"]


def test_a_checkpoint_that_does_not_fit_is_told_before_its_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the kernel ends a process that took too much, before it can say so."""
    monkeypatch.setattr(start, "load_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(UsageError, match=r"too little memory for one page \(0\.0 GB granted - .*free some"):
        PixtralEngine(CHECKPOINT, device="cpu", memory_bytes=10_000_000)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("params.json", ("config.json",)),
        ("params.json", ("config.json", "model-00001-of-00006.safetensors")),
        ("consolidated*.safetensors", ("params.json", "tekken.json", "model-00001-of-00006.safetensors")),
    ],
)
def test_a_folder_in_hugging_faces_format_is_told_from_one_in_mistrals(
    tmp_path: Path, name: str, kept: tuple[str, ...]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in kept:
        own = CHECKPOINT / file
        (folder / file).write_bytes(own.read_bytes() if own.exists() else b"{}")
    theirs = min(file for file in kept if not (CHECKPOINT / file).exists())
    words = (
        f"{folder} holds no {name}, but {theirs}: it is in Hugging Face's format, and pagepack reads Mistral's own. "
    )
    with pytest.raises(UsageError, match=re.escape(words)) as refused:
        PixtralEngine(folder)
    assert DOWNLOAD in str(refused.value)
    fact = found(folder)["engine"]["fact"]
    assert words in fact and DOWNLOAD in fact


def test_a_run_and_doctor_refuse_a_folder_in_hugging_faces_format(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    document = write_pdf(tmp_path / "a.pdf", 1)
    refused = pagepack(
        "run", document, "--home", tmp_path / "home", "--model", folder, PAGEPACK_INTERNAL_ENGINE="", COLUMNS="1000"
    )
    assert refused.returncode == 2 and DOWNLOAD in refused.stderr
    asked = call("doctor", "--home", tmp_path, "--model", folder, PAGEPACK_INTERNAL_ENGINE="")
    assert asked.returncode == 2 and DOWNLOAD in asked.stdout


def test_doctor_names_what_is_wrong_with_a_checkpoint(tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    (folder / "tekken.json").unlink()
    assert f"{folder} holds no tekken.json; is it a checkpoint" in found(folder)["model"]["fact"]
    folder = a_copy(tmp_path / "2")
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(params | {"hidden_dim": params["hidden_dim"] * 2}))
    check = found(folder)["model"]
    assert check["state"] == "broken" and "params.json asks for" in check["fact"]
    assert "are they of one model?" in check["fact"]
    (folder / "consolidated.safetensors").write_bytes(b"short")
    assert found(folder)["engine"]["state"] == "broken" and "model" not in found(folder)


def test_the_tables_of_checkpoints_and_cards_are_the_engines_own_sums() -> None:
    from benchmarks.family import FAMILY
    from pipeline.documents.pages.tiles import num_tokens
    from workers.pixtral.model.config import config_of
    from workers.pixtral.model.load import empty_model, weight_bytes
    from workers.pixtral.plan.sizes import size_engine

    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    configs = {name: config_of(params) for name, params in FAMILY.items()}
    weights = {name: weight_bytes(empty_model(config).to(torch.bfloat16)) for name, config in configs.items()}
    for name, config in configs.items():
        vision, cell = (
            config.vision_encoder,
            config.vision_encoder.patch_size * config.vision_encoder.spatial_merge_size,
        )
        a4 = num_tokens([(round(vision.image_size * 210 / 297), vision.image_size)], cell)
        begins = f"| {name} | {weights[name] / 2e9:.1f} B | {weights[name] / 1e9:.1f} GB | {cell} × {cell} px, "
        (row,) = [line for line in text.splitlines() if line.startswith(begins)] or [""]
        assert f"| {vision.image_size:,} px | {a4:,} tokens |" in row, begins
    rows = re.findall(r"^\| (\d+) GiB \|(.*)\|$", text, flags=re.MULTILINE)
    assert len(rows) == 8 + 9
    columns = ("Pixtral 12B", "Mistral Small 3.2", "Ministral 3 3B", "Ministral 3 8B", "Ministral 3 14B")
    for gibibytes, cells in rows[:8]:
        granted = int(int(gibibytes) * 2**30 * 0.92)
        for name, told in zip(columns, map(str.strip, cells.split("|")), strict=True):
            try:
                fits = size_engine(configs[name], weights[name], granted, 2, on_gpu=True).limits.max_sequences
            except UsageError:
                fits = None
            assert told.removesuffix(", the most") == ("does not fit" if fits is None else str(fits)), (name, gibibytes)


def test_the_table_of_two_cards_is_the_engines_own_sums() -> None:
    from benchmarks.family import FAMILY
    from workers.pixtral.model.config import config_of
    from workers.pixtral.model.half import half_of
    from workers.pixtral.model.load import empty_model, weight_bytes
    from workers.pixtral.plan.sizes import size_engine

    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| 2 × (\d+) GiB \|(.*)\|$", text, flags=re.MULTILINE)
    assert len(rows) == 6
    (told_bytes,) = re.findall(r"^\| memory of the cards \|(.*)\|$", text, flags=re.MULTILINE)
    for place, name in enumerate(("Pixtral 12B", "Mistral Small 3.2", "Ministral 3 14B")):
        half = half_of(config_of(FAMILY[name]), Path())
        weights = weight_bytes(empty_model(half).to(torch.bfloat16))
        assert told_bytes.split("|")[place].strip().endswith(f"{weights / 1e9:.1f} GB on each")
        for gibibytes, cells in rows:
            try:
                granted = int(int(gibibytes) * 2**30 * 0.92)
                fits = str(size_engine(half, weights, granted, 2, on_gpu=True).limits.max_sequences)
            except UsageError:
                fits = "does not fit"
            assert cells.split("|")[place].strip() == fits, (name, gibibytes)


def test_doctor_says_that_two_gpus_hold_what_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = {torch.device("cuda", number): f"GPU {number}, small" for number in range(3)}
    first, *_ = gpus
    monkeypatch.setattr(doctor, "_devices", lambda: gpus)
    monkeypatch.setattr(devices, "check_capability", lambda device: None)

    def told(granted: int) -> list[dict[str, str]]:
        monkeypatch.setattr(start, "available_bytes", lambda device: granted)
        return doctor._model(CHECKPOINT, "off", "model")

    def least(*, half: bool) -> int:
        model, granted = start.empty_model_of(CHECKPOINT, half=half).to(torch.bfloat16), 0
        while granted := granted + 10**6:
            with suppress(UsageError):
                start.fit_of(model, granted, first)
                break
        return granted

    of_both, of_one = least(half=True), least(half=False)
    assert of_both < of_one
    assert [check["state"] for check in told(of_one)] == ["ok"] * 3  # and no word of two
    *each, over_two = told(of_both)
    assert [check["state"] for check in each] == ["broken"] * 3
    assert over_two["state"] == "ok"
    together = r"fits GPU 0, small and GPU 1, small together \(--devices 0\+1\), \d+ pages at once; on each: 0\.\d GB"
    assert re.search(together, over_two["fact"])
    assert len(told(of_both // 2)) == 3
    assert [check["state"] for check in doctor._model(CHECKPOINT, "int8", "model")] == [
        "broken"
    ] * 3  # refused over two

    def refuse(device: torch.device) -> None:
        if device.index != 1:
            raise UsageError("too old")

    monkeypatch.setattr(devices, "check_capability", refuse)
    assert [check["state"] for check in told(of_both)] == ["broken"] * 3
