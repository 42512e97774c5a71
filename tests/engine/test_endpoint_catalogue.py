"""How models behind a server are asked: their own prompts, sizes and parameters, as the catalogue has them."""

from __future__ import annotations

import base64
import dataclasses
import io
import time

import numpy as np
import pytest
from PIL import Image

from pipeline.endpoints.catalogue import ENTRIES, GENERAL, entry_of, is_same_model, without_front_matter
from pipeline.settings import Settings
from schemas.prompts import DESCRIBE, OCR, hinted, with_hint
from tests.model_server import ModelServer, ok
from workers.engines.endpoint import EndpointEngine
from workers.engines.endpoint_images import PageImages
from workers.engines.endpoint_request import Asked

SHEET = np.full((2048, 1456, 3), 255, np.uint8)
SHEET[::40] = 0


def asked(model: str, **settings: object) -> Asked:
    return Asked.of(Settings(endpoint_url="http://127.0.0.1:1/v1", endpoint_model=model, **settings))


def request(model: str, page=SHEET, answer: str = "read", **settings: object):
    """The body of a request for one page, the images in it, and what came of the answer."""
    with ModelServer(ok(answer, model=model)) as server:
        reader = EndpointEngine(Settings(endpoint_url=server.url, endpoint_model=model, **settings))
        try:
            (future,) = reader.submit("hash", page, [OCR], time.monotonic() + 60)
            read = future.result()
        finally:
            reader.close()
        (exchange,) = server.exchanges
    parts = exchange.body["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    images = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    return exchange.body, images, read


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "llama-3.2-vision"),
        ("meta-llama/Llama-3.2-90B-Vision-Instruct", "llama-3.2-vision"),
        ("llama3.2-vision:11b", "llama-3.2-vision"),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava-onevision"),
        ("lmms-lab/llava-onevision-qwen2-72b-ov-sft", "llava-onevision"),
        ("Qwen/Qwen2-VL-7B-Instruct", "qwen2-vl"),
        ("allenai/olmOCR-2-7B-1025-FP8", "olmocr"),
        ("lightonai/LightOnOCR-1B-1025", "lightonocr"),
        ("lightonai/LightOnOCR-2-1B", "lightonocr"),
        ("lightonai/LightOnOCR-3-1B", "lightonocr-3-1b"),
        ("lightonai/LightOnOCR-3-0.8B", "lightonocr-3"),
        ("PaddlePaddle/PaddleOCR-VL", "paddleocr-vl"),
        ("rednote-hilab/dots.ocr", "dots-ocr"),
        ("deepseek-ai/DeepSeek-OCR", "deepseek-ocr"),
        ("mistralai/Pixtral-12B-2409", "pixtral"),
        ("gpt-4o", "general"),
        ("meta-llama/Llama-3.2-3B-Instruct", "general"),
    ],
)
def test_a_model_is_known_by_its_name(model: str, name: str) -> None:
    assert entry_of(model).name == name
    assert entry_of("served-under-another-name", name).name == name


def test_every_entry_says_where_its_facts_are_from_and_names_are_told_apart() -> None:
    assert all("https://" in entry.source for entry in ENTRIES)
    versions = [entry.version for entry in (*ENTRIES, GENERAL)]
    assert len(set(versions)) == len(versions)


def test_another_model_prompt_size_or_parameter_is_another_version_and_another_server_is_not() -> None:
    known = asked("olmocr")
    others = [
        asked("olmOCR-2"),
        asked("olmocr", endpoint_profile="general"),
        asked("olmocr", endpoint_image="jpeg"),
        asked("olmocr", endpoint_max_side_px=1024),
        asked("olmocr", endpoint_body='{"repetition_penalty": 1.05}'),
        dataclasses.replace(known, entry=dataclasses.replace(known.entry, ocr_prompt="Read.")),
    ]
    assert len({one.fingerprint for one in [known, *others]}) == 1 + len(others)
    assert dataclasses.replace(known, url="https://elsewhere/v1").fingerprint == known.fingerprint


def test_a_trained_prompt_is_sent_word_for_word_where_the_model_wants_it() -> None:
    body, (image,), answer = request(
        "allenai/olmOCR-2-7B-1025", answer="---\nprimary_language: en\nis_rotation_valid: False\n---\n\nDear Sir"
    )
    text, picture = body["messages"][0]["content"]
    assert text["text"].startswith("Attached is one page") and text["text"].endswith("is_diagram parameters.")
    assert picture["type"] == "image_url" and image.size == (915, 1288)
    assert (body["temperature"], body["max_tokens"]) == (0.1, 8000)
    assert answer.text == "Dear Sir" and answer.temperature == 0.1
    assert answer.details["front_matter"] == {"primary_language": "en", "is_rotation_valid": "False"}
    assert answer.review_reason == "turn-in-doubt"


def test_a_hint_is_told_to_a_model_that_is_asked_in_our_words_and_to_no_other() -> None:
    hint = hinted(with_hint(OCR), "what the file carries")
    assert "what the file carries" in asked("qwen2-vl-7b").prompt(hint).text
    assert asked("PaddleOCR-VL").prompt(hint).text == "OCR:"


def test_a_model_that_takes_no_prompt_gets_the_image_alone() -> None:
    body, (image,), _ = request("LightOnOCR-1B-1025")
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url"]
    assert image.size == (1094, 1540)
    assert (body["temperature"], body["top_p"]) == (0.2, 0.9)
    later = asked("LightOnOCR-3-0.8B").body(PageImages([b"x"]), asked("LightOnOCR-3-0.8B").prompt(OCR))
    assert (later["temperature"], later["top_p"]) == (0.2, 1.0), "said, or the server takes another"
    assert later["chat_template_kwargs"] == {"enable_thinking": False} and later["messages"][0]["content"][1:] == []


def test_an_image_is_within_the_models_number_of_pixels() -> None:
    body, (image,), _ = request("PaddleOCR-VL")
    assert image.width * image.height <= 2_822_400 and image.size == (1416, 1992)
    assert body["messages"][0]["content"][1]["text"] == "OCR:"
    assert request("dots.ocr")[1][0].size == (1456, 2048)  # as it is
    assert request("DeepSeek-OCR")[0]["vllm_xargs"]["ngram_size"] == 30


def test_pixtral_gets_the_tiles_that_the_engine_of_that_name_makes() -> None:
    body, images, answer = request("mistralai/Pixtral-12B-2409")
    assert images[0].size == (736, 1024) and len(images) == 7
    assert {image.size for image in images[1:]} == {(800, 768)}
    assert len(answer.details["tiles"]) == 6
    text = body["messages"][0]["content"][-1]["text"]
    assert text.startswith("Image 1 shows a whole page. Images 2 to 7") and text.endswith(OCR.text)


def test_settings_go_before_the_catalogue_and_null_takes_a_field_out() -> None:
    body, (image,), _ = request(
        "gpt-4o",
        endpoint_max_side_px=1000,
        endpoint_image="jpeg",
        endpoint_body='{"max_tokens": null, "max_completion_tokens": 4096, "temperature": null, "logprobs": null}',
    )
    assert max(image.size) == 1000 and image.format == "JPEG"
    assert set(body) == {"model", "messages", "max_completion_tokens"}


def test_a_model_that_only_reads_answers_no_other_prompt() -> None:
    reader = EndpointEngine(Settings(endpoint_url="http://127.0.0.1:1/v1", endpoint_model="olmocr"))
    try:
        assert reader.supports(OCR) and not reader.supports(DESCRIBE)
    finally:
        reader.close()
    assert asked("olmocr").only_prompts == ["ocr"] and asked("pixtral-12b").only_prompts is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("---\na: b\n---\ntext", "text"),
        ("---\n---\ntext", "text"),
        ("---\na: b\n---", ""),
        ("--- no front matter\n---\n", "--- no front matter\n---\n"),
        ("text\n---\na: b\n---\n", "text\n---\na: b\n---\n"),
        ("---\na: b\nwithout an end", "---\na: b\nwithout an end"),
    ],
)
def test_front_matter_is_taken_off_only_where_it_is(text: str, left: str) -> None:
    assert without_front_matter(text)[0] == left


@pytest.mark.parametrize(
    ("asked_for", "served", "is_same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("mistral-ocr-latest", "mistral-ocr-2505-completion", True),
        ("Qwen/Qwen2-VL-7B-Instruct", "/models/qwen2-vl-7b-instruct/", True),
        ("llava-onevision", "llava-onevision-7b", False),
        ("gpt-4o", "gpt-4o-mini", False),
        ("small", "large", False),
    ],
)
def test_a_name_with_a_date_or_a_folder_is_the_same_model(asked_for: str, served: str, is_same: bool) -> None:
    assert is_same_model(asked_for, served) is is_same
