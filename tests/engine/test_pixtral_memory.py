"""Memory in use stays within the grant, measured on a process of its own."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.running import HANGS_AFTER_SECONDS, environment, start_module

pytestmark = [
    pytest.mark.xdist_group("reader"),  # one process, of which runs with a model are forked, imports torch
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/status and statm are Linux's"),
]


def ended(module, *words):
    """A module's process with the packed engine: its exit code and what it said."""
    process = start_module(module, words, environment("", PAGEPACK_MODEL="drawn"))
    try:
        out, errors = process.communicate(timeout=HANGS_AFTER_SECONDS)
        return process.returncode, out, errors
    finally:
        process.kill()


@pytest.mark.parametrize(("step", "granted"), [("", "0.22"), ("512,512,4", "0.165")])
def test_a_flood_of_mixed_pages_stays_within_the_grant(step, granted):
    words = ["--preset", "tiny", "--granted-gb", granted, "--pages", "40", "--tokens", "12"]
    code, out, errors = ended("benchmarks.bench_memory", *words, *(["--step", step] if step else []))
    assert code == 0, out[-2000:] + errors[-4000:]
    figures = json.loads(out.splitlines()[-1])
    assert figures["within"] and figures["failed"] == 0 and figures["requests"] == 50


def test_memory_that_is_gone_when_the_cache_is_made_is_said_in_one_line():
    """In a process of its own: the limit is a whole process's."""
    code, out, errors = ended("tests.engine.start_without_memory")
    assert code == 0, errors[-4000:]
    told = r"a cache of [\d,]+ blocks does not fit the memory of cpu any more .*free.*\n"
    assert re.fullmatch(told, out), out + errors[-4000:]


def test_a_tokenizer_that_finds_no_memory_is_not_called_damaged():
    code, out, errors = ended("tests.engine.start_without_memory", "tokenizer")
    assert code == 0, errors[-4000:]
    assert re.fullmatch(r"too little memory to load \S+/tekken\.json; free some\n", out), out + errors[-4000:]
