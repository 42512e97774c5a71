"""A real S3 server for tests: moto over HTTP, in a process of its own."""

from __future__ import annotations

import atexit
import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address=sys.argv[1], port=int(sys.argv[2]), verbose=False)
server.start()
print("port", server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until whoever started it is gone
"""

KEYS = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Bucket:
    """A bucket of its own for each test. `variables` are what a process needs to reach it."""

    name: str
    fs: Any
    variables: dict[str, str]

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes) -> None:
        self.fs.pipe_file(f"{self.name}/{key}", data)

    def keys(self, prefix: str = "") -> list[str]:
        found = self.fs.call_s3("list_objects_v2", Bucket=self.name, Prefix=prefix)
        return [one["Key"] for one in found.get("Contents", [])]

    @contextmanager
    def opened_anew(self) -> Iterator[None]:
        """What is opened inside goes by the environment there, and nothing after it uses that, though a test fails."""
        type(self.fs).clear_instance_cache()
        try:
            yield
        finally:
            type(self.fs).clear_instance_cache()


@functools.cache
def _start_server() -> tuple[subprocess.Popen[str], str]:
    """One for all tests of this process, with whose end it ends: its standard input closes."""
    from fsspec import get_filesystem_class

    command = [sys.executable, "-c", SERVER, "127.0.0.1", "0"]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    atexit.register(server.kill)
    assert server.stdout is not None
    port = re.search(r"port (\d+)", server.stdout.readline())
    assert port is not None
    threading.Thread(target=server.stdout.read, daemon=True).start()
    get_filesystem_class("s3").clear_instance_cache()  # what a test held before has no endpoint, or another
    return server, f"http://127.0.0.1:{port[1]}"


@pytest.fixture
def s3_endpoint() -> str:
    return _start_server()[1]


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Bucket:
    from fsspec.core import url_to_fs

    variables = KEYS | {"AWS_ENDPOINT_URL": s3_endpoint}
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    fs, _ = url_to_fs("s3://any", use_listings_cache=False)  # one for all tests: to make one takes 0.2 s
    name = "b" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    fs.call_s3("create_bucket", Bucket=name)
    return Bucket(name, fs, variables)
