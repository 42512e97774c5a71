"""docker-compose.yml and the Dockerfile taken apart, and each service run as a local process against real servers.

`docker build` and `docker compose up` themselves are not run: they need a Docker daemon. `compose_stack.py` says what
that leaves open. docs/operations.md says how the image was built without one.
"""

from __future__ import annotations

import base64
import grp
import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import tomllib
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psycopg
import pymupdf
import pytest
import redis
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline import __version__
from pipeline.settings import Settings
from tests.compose_file import ROOT, MissingVariable, interpolated, load_compose, load_dockerfile
from tests.compose_stack import ColdStarts, Stack, seconds
from tests.running import wait_until

pytestmark = pytest.mark.xdist_group("compose")  # one test process pays for what they share

PASSWORDS = {
    name: f"{name.lower().replace('_', '')}fortest"
    for name in ("POSTGRES_PASSWORD", "INGEST_PASSWORD", "READ_PASSWORD", "REDIS_PASSWORD", "FLOWER_PASSWORD")
}
LOCKS = {"ingest": "requirements.lock", "gpu": "requirements-gpu.lock"}
BROKEN = ("catalogue-cut-short.pdf", "minutes-encrypted.pdf")  # of samples/

FILE_KEYS = {"services", "networks", "volumes"}
SERVICE_KEYS = {
    "build", "cap_drop", "command", "cpus", "depends_on", "deploy", "entrypoint", "environment", "healthcheck", "image",
    "init", "logging", "mem_limit", "networks", "ports", "profiles", "pull_policy", "read_only", "restart", "secrets",
    "security_opt", "shm_size", "stop_grace_period", "tmpfs", "user", "volumes",
}  # fmt: skip
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return load_compose(PASSWORDS)


def services(compose: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(compose["services"].items())


def test_variables_are_filled_in_as_compose_does() -> None:
    given = {"A": "a", "EMPTY": ""}
    assert interpolated("${A} ${A:-b} ${B:-b} ${EMPTY:-b} ${B} $$A ${B:-}", given) == "a a b b  $A "
    with pytest.raises(MissingVariable, match="B: say it"):
        interpolated("${B:?say it}", given)
    with pytest.raises(MissingVariable):
        interpolated("${EMPTY:?say it}", given)


@pytest.mark.parametrize("name", PASSWORDS)
def test_a_missing_password_stops_everything_and_says_where_to_put_it(name: str) -> None:
    with pytest.raises(MissingVariable, match=rf"{name}: put it into \.env"):
        load_compose({**PASSWORDS, name: ""})


def test_the_example_names_every_variable_and_no_password() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert set(example) == used
    assert {name for name, value in example.items() if not value} == set(PASSWORDS)
    assert ".env" in (ROOT / ".gitignore").read_text().split()


def test_only_known_words_are_used(compose: dict[str, Any]) -> None:
    assert {key for key in compose if not key.startswith("x-")} == FILE_KEYS
    for name, service in services(compose):
        assert set(service) <= SERVICE_KEYS, name
        assert set(service.get("healthcheck", {})) <= HEALTH_KEYS, name
        for variable, value in service.get("environment", {}).items():
            assert isinstance(value, str), f"{name}: {variable} is no string; YAML's true and 30 are not"
            known = f"PAGEPACK_{variable.removeprefix('PAGEPACK_')}".lower().removeprefix("pagepack_")
            assert not variable.startswith("PAGEPACK_") or known in Settings.model_fields, f"{name}: {variable}"


def test_no_command_line_holds_a_password(compose: dict[str, Any]) -> None:
    for name, service in services(compose):
        words = [*service.get("entrypoint", []), *service["command"], *service.get("healthcheck", {}).get("test", [])]
        assert not any(password in word for password in PASSWORDS.values() for word in words), name


def test_every_name_leads_somewhere(compose: dict[str, Any]) -> None:
    for name, service in services(compose):
        for other, wanted in service.get("depends_on", {}).items():
            ended = wanted["condition"] == "service_completed_successfully"
            assert ended or "healthcheck" in compose["services"][other], f"{name} waits for {other}'s health"
            assert ended == (compose["services"][other].get("restart") == "no"), f"{name}: {other}"
        for volume in service.get("volumes", []):
            if isinstance(volume, str):
                assert volume.split(":")[0] in compose["volumes"], f"{name}: {volume}"
            else:
                assert volume.get("read_only", volume["target"] == "/results"), f"{name}: {volume}"
                assert not volume["bind"]["create_host_path"], f"{name}: {volume}"
        assert set(service["networks"]) <= set(compose["networks"])
        if "build" in service:
            assert service["build"]["target"] in load_dockerfile(), name
            # Compose pulls nothing and builds where there is no image; `build` would build at each `run`.
            assert service["pull_policy"] == "never", f"{name}: nobody else's image of this name is taken"


def test_services_are_confined(compose: dict[str, Any]) -> None:
    for name, service in services(compose):
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"].split(":")[0] not in ("0", "root"), name
        assert re.fullmatch(r"[\w./-]+:(?!latest)[\w.-]*\d[\w.-]*", service["image"]), name
        assert not service.keys() & {"privileged", "network_mode", "pid", "devices"}, name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"
        assert "ports" in service or service["networks"] == ["inside"], name
    assert compose["networks"]["inside"]["internal"] is True
    assert [name for name, service in services(compose) if "ports" in service] == ["flower"]


def test_a_stop_waits_longer_than_pages_in_hand_take(compose: dict[str, Any]) -> None:
    for name in ("ingest", "read", "read-gpu"):
        service = compose["services"][name]
        assert seconds(service["stop_grace_period"]) > float(service["environment"]["PAGEPACK_GRACE_SECONDS"]) + 5


def test_a_gpu_is_asked_for_under_its_profile_only(compose: dict[str, Any]) -> None:
    with_gpu = [name for name, service in services(compose) if "deploy" in service]
    assert (
        with_gpu == [name for name, service in services(compose) if service.get("profiles") == ["gpu"]] == ["read-gpu"]
    )
    devices = compose["services"]["read-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]


def test_the_dockerfile_holds_together(compose: dict[str, Any]) -> None:
    stages = load_dockerfile()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    for stage in stages.values():
        assert stage.base in stages or re.fullmatch(r"python:3\.\d+-slim-\w+", stage.base), stage.base
        assert set(stage.copies_from) <= set(stages)
        for source in stage.copies:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, f".dockerignore hides {source}"
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {"pyproject.toml", "README.md", "LICENSE"} == set(stages["wheel"].copies)
    for target, lock in LOCKS.items():
        build, dependencies = (
            stages[stages[target].copies_from[0]],
            stages[f"dependencies{lock.removesuffix('.lock')[12:]}"],
        )
        assert build.base == dependencies.name and build.copies == [] and build.copies_from == ["wheel"]
        # The code comes after them, so that a change of it installs none of them again.
        assert dependencies.copies == [lock] and dependencies.base == "base" and stages["base"].copies == []
        assert f"--require-hashes -r {lock}" in dependencies.runs[0]
    for target in ("ingest", "gpu"):
        user = stages[target].user.split(":")[0]
        assert user.isdigit() and int(user) >= 1000
        assert stages[target].entrypoint == ["pagepack"]
        service = next(service for _, service in services(compose) if service.get("build", {}).get("target") == target)
        assert service["user"] == stages[target].user  # where .env says no other
        assert re.fullmatch(rf"pagepack:{re.escape(__version__)}(-\w+)?", service["image"])
    compilers = [name for name, stage in stages.items() if any("gcc" in run for run in stage.runs)]
    assert compilers == ["gpu"]  # Triton needs one; see the file


def test_what_the_file_names_is_no_secret_of_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert ignored[1] == "*"
    for secret in (".env", "secrets/owner_database_url", "documents/scan.pdf"):
        assert not any(fnmatch(secret, line.removeprefix("!")) for line in ignored[2:]), secret


@pytest.mark.parametrize("target", LOCKS)
def test_an_image_has_what_its_commands_offer(target: str) -> None:
    """Each extra but those of the other image and of development, in a version that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    locked = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / LOCKS[target]).read_text(), re.MULTILINE)
    }
    extras = project["project"]["optional-dependencies"]
    left_out = {"ingest": {"dev", "pixtral"}, "gpu": {"dev", "web", "openvino"}}[target]
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for requirement in [*wanted, *(one for name in extras.keys() - left_out for one in extras[name])]:
        needed = Requirement(requirement)
        version = locked.get(canonicalize_name(needed.name))
        assert version is not None and needed.specifier.contains(version), f"{requirement}: {version}; run `make lock`"


def test_celery_warns_of_no_group_that_the_image_has_no_name_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """RUN_AS is a number of the host's; the file `group` of the image has only its own."""
    from celery.platforms import check_privileges

    from workers.__main__ import ignore_celery_warnings

    named = {entry.gr_gid for entry in grp.getgrall()}
    nameless = next(number for number in range(50_000, 60_000) if number not in named)
    monkeypatch.setattr("os.getgid", lambda: nameless)
    monkeypatch.setattr("os.getegid", lambda: nameless)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        check_privileges(["json"])
        assert seen, "Celery warns of it no more, and nothing need be ignored"
        seen.clear()
        ignore_celery_warnings()
        check_privileges(["json"])
    assert [str(one.message) for one in seen] == []


def test_a_fresh_clone_has_the_folders_that_are_mounted(compose: dict[str, Any]) -> None:
    """Docker would make them root's, and refuses here to make them."""
    kept = subprocess.run(["git", "ls-files", "documents", "results"], cwd=ROOT, capture_output=True, text=True).stdout
    assert kept.split() == ["documents/.gitignore", "results/.gitignore"]
    mounts = [volume for volume in compose["services"]["pagepack"]["volumes"] if isinstance(volume, dict)]
    assert {volume["source"]: volume["target"] for volume in mounts} == {
        "./documents": "/documents",
        "./results": "/results",
    }


def test_every_service_has_limits(compose: dict[str, Any]) -> None:
    """And Docker refuses more cores than a machine has, so that their number is the machine's to say."""
    for name, service in services(compose):
        assert re.fullmatch(r"\d+g", service["mem_limit"]), name
        assert float(service["cpus"]) > 0, name
    given = load_compose({**PASSWORDS, "CPUS": "0.5", "WORKER_MEMORY": "3g", "GPU_WORKER_MEMORY": "9g"})["services"]
    assert {service["cpus"] for service in given.values()} == {"0.5"}
    assert [given[name]["mem_limit"] for name in ("ingest", "read", "read-gpu")] == ["3g", "3g", "9g"]
    needed = Settings.model_fields["rasterize_memory_bytes"].default
    assert int(compose["services"]["ingest"]["mem_limit"][:-1]) * 2**30 > needed


def test_page_images_do_not_fill_the_disk(compose: dict[str, Any]) -> None:
    for name in ("ingest", "read", "read-gpu", "pagepack"):
        assert compose["services"][name]["environment"]["PAGEPACK_KEEP_IMAGES"] == "until-read"


def photograph(path: Path, text: str) -> Path:
    """A small picture of one line, which RapidOCR reads in a fifth of a second."""
    with pymupdf.open() as document:
        page = document.new_page(width=300, height=100)
        page.insert_text((20, 60), text, fontsize=24)
        page.get_pixmap(dpi=100).save(path)
    return path


@pytest.fixture(scope="session")
def cold() -> ColdStarts:
    return ColdStarts()


@pytest.fixture(scope="module")
def stack(cold: ColdStarts) -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="pagepack-compose-"))
    folder.chmod(0o755)  # the server of PostgreSQL is another user
    try:
        with Stack(folder, {**PASSWORDS, "MODEL": str(ROOT / "benchmarks" / "reader" / "checkpoint")}, cold) as stack:
            for name in BROKEN:
                shutil.copy(ROOT / "samples" / name, stack.documents)
            photograph(stack.documents / "street.jpg", "SUMMER CONCERT")
            with pymupdf.open() as scan:
                scan.new_page(width=300, height=100).insert_image(
                    (0, 0, 300, 100), stream=photograph(folder / "page.jpg", "Marlow & Finch").read_bytes()
                )
                scan.save(stack.documents / "invoice-scan.pdf")
            yield stack
    finally:
        shutil.rmtree(folder)


def rows(stack: Stack, statement: str) -> list[tuple[Any, ...]]:
    """What PostgreSQL holds, asked past pagepack."""
    url = stack.environment("migrate")["PAGEPACK_DATABASE_URL"]
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def test_what_comes_up_reads_documents_into_postgresql(stack: Stack) -> None:
    stack.up(*stack.default_services())
    assert stack.order.index("migrate") < stack.order.index("ingest")
    done = stack.run("pagepack", "submit", "/documents", "--wait", "--json")
    assert done.returncode == 1, done.stderr  # two samples are broken on purpose
    counts = json.loads(done.stdout)
    assert (counts["files_seen"], counts["files_done"], counts["files_rejected"]) == (4, 2, 2)
    texts = dict(rows(stack, "SELECT source_path, text FROM page_text"))
    assert ["Marlow & Finch" in text for path, text in texts.items() if path.endswith("invoice-scan.pdf")] == [True]
    assert ["SUMMER CONCERT" in text for path, text in texts.items() if path.endswith("street.jpg")] == [True]
    assert sorted(rows(stack, "SELECT cause FROM failures")) == [("damaged",), ("encrypted",)]
    status = stack.run("pagepack")  # its own command
    assert status.returncode == 0 and "finished" in status.stdout, status.stderr
    asked = stack.run("pagepack", "sql", "SELECT count(*) FROM page_text", "--format", "csv")
    assert asked.stdout.split() == ["count", "2"], asked.stderr
    written = stack.run("pagepack", "export", "--out", "/results/text")
    assert written.returncode == 0, written.stderr
    assert any("Marlow & Finch" in file.read_text() for file in stack.results.rglob("invoice-scan.pdf.md"))


def test_workers_log_in_with_the_least_that_they_need(stack: Stack) -> None:
    stack.up("ingest", "read")
    users = dict(
        rows(stack, "SELECT usename, count(*) FROM pg_stat_activity WHERE application_name = 'pagepack' GROUP BY 1")
    )
    assert set(users) == {"pagepack_ingest", "pagepack_worker"}
    assert rows(stack, "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolsuper") == [("pagepack",)]
    for name, statement in {"ingest": "DROP TABLE answer_versions", "read": "SELECT location FROM sources"}.items():
        url = stack.environment(name)["PAGEPACK_DATABASE_URL"]
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())
    again = [stack.run(name).returncode for name in ("migrate", "roles", "logins")]  # `docker compose up` once more
    assert again == [0, 0, 0]


def test_no_service_but_migrations_has_the_superusers_password(compose: dict[str, Any]) -> None:
    password = PASSWORDS["POSTGRES_PASSWORD"]
    have = {
        name
        for name, service in services(compose)
        if any(password in value for value in service["environment"].values())
    }
    assert have == {"postgres", "migrate", "roles", "logins"}


def test_flower_sees_the_workers_and_asks_for_its_password(stack: Stack) -> None:
    stack.up("ingest", "read", "flower")
    address = f"http://127.0.0.1:{stack.port('flower', '5555')}"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{address}/workers", timeout=120)
    login = base64.b64encode(f"pagepack:{PASSWORDS['FLOWER_PASSWORD']}".encode()).decode()

    def page(path: str) -> bytes:
        request = urllib.request.Request(f"{address}/{path}", headers={"Authorization": f"Basic {login}"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return bytes(answer.read())

    def seen() -> dict[str, str]:
        names = [worker["hostname"] for worker in json.loads(page("workers?json=1"))["data"]]
        return {name.partition("-")[0]: name for name in names}

    wait_until(lambda: set(seen()) >= {"pagepack.ingest", "pagepack.read"})
    assert all(name.endswith(f"@{socket.gethostname()}") for name in seen().values())
    for path in ("broker", "tasks", f"worker/{seen()['pagepack.read']}"):
        assert b"<html" in page(path)
    flower = redis.Redis(
        port=int(stack.port("redis", "6379")), username="flower", password=PASSWORDS["FLOWER_PASSWORD"]
    )
    assert flower.llen("pagepack.read") == 0
    for forbidden in (
        lambda: flower.lpush("pagepack.read", "{}"),
        lambda: flower.rpop("pagepack.ingest"),
        lambda: flower.delete("pagepack.read"),
        lambda: flower.flushall(),
        lambda: flower.config_get("requirepass"),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            forbidden()
    assert "NOPERM" not in stack.log("flower").read_text()


def test_a_stopped_worker_finishes_its_page_and_leaves_nothing_behind(stack: Stack) -> None:
    stack.up("ingest", "read")
    shutil.copy(ROOT / "samples" / "timetable-landscape.pdf", stack.documents)
    submitted = stack.run("pagepack", "submit", "/documents/timetable-landscape.pdf")
    assert submitted.returncode == 0, submitted.stderr
    wait_until(lambda: rows(stack, "SELECT count(*) FROM page_tasks WHERE state = 'leased'") == [(1,)])
    assert stack.stop("read") == 0
    assert rows(stack, "SELECT count(*) FROM page_text WHERE text LIKE '%Gull Island%'") == [(1,)]
    assert rows(stack, "SELECT count(*) FROM page_tasks WHERE owner IS NOT NULL") == [(0,)]
    assert rows(stack, "SELECT role FROM worker_processes") == [("ingest",)]


def test_the_gpu_profile_reads_with_the_model_folder(stack: Stack) -> None:
    """On the CPU, with the small reader, whose answer to this is noise: mounts and all flags but one are the file's."""
    assert "--devices" in stack.services["read-gpu"]["command"]
    stack.up("ingest", "read-gpu")
    if "read" in stack.running:
        stack.stop("read")
    page = stack.documents / "page.pdf"
    with pymupdf.open() as document:
        document.new_page(width=200, height=40).insert_text((20, 25), "one page")  # a fifth of the patches
        document.save(page)
    (stack.documents / "title.txt").write_text("What is its title?")
    short = ("--prompt-file", "/documents/title.txt", "--max-tokens", "16")  # noise need have no end of its own
    done = stack.run("pagepack", "submit", "/documents/page.pdf", *short, "--wait")
    assert done.returncode == 0, done.stderr
    assert rows(stack, f"SELECT engine FROM page_text WHERE source_path = '{page}'") == [("pixtral",)]


def test_a_dump_is_a_whole_installation(stack: Stack) -> None:
    """As docs/operations.md backs up."""
    stack.up("migrate")
    variables = stack.environment("migrate")
    url = variables["PAGEPACK_DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE restored")
    restored = url.removesuffix("/pagepack") + "/restored"
    dump = ["pg_dump", "--format=custom", f"--file={stack.documents.parent / 'dump'}", f"--dbname={url}"]
    restore = ["pg_restore", "--exit-on-error", f"--dbname={restored}", str(stack.documents.parent / "dump")]
    for command in (dump, restore):
        subprocess.run(command, env=variables, check=True, executable=shutil.which(command[0], path=variables["PATH"]))
    count = "SELECT (SELECT count(*) FROM page_text), (SELECT count(*) FROM failures), (SELECT count(*) FROM attempts)"
    with psycopg.connect(restored) as connection:
        assert connection.execute(count).fetchall() == rows(stack, count)
    status = stack.run("migrate", "status", PAGEPACK_DATABASE_URL=restored)
    assert status.returncode in (0, 2) and "revision" not in status.stderr, status.stderr


def unit_service() -> dict[str, str]:
    """A name given twice has its values joined by a newline."""
    lines = (ROOT / "docs" / "pagepack-worker@.service").read_text().partition("[Service]")[2].partition("[")[0]
    found: dict[str, str] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", lines, re.MULTILINE):
        found[name] = f"{found[name]}\n{value}" if name in found else value
    return found


def test_instances_of_the_systemd_unit_share_no_port() -> None:
    """Each has settings of its own, after and so over the common ones, and the unit itself sets no port for all."""
    service = unit_service()
    assert service["EnvironmentFile"].split() == ["/etc/pagepack/worker.env", "-/etc/pagepack/worker-%i.env"]
    assert "PORT" not in service["Environment"]


def test_the_systemd_unit_starts_and_stops_a_worker(stack: Stack, tmp_path: Path) -> None:
    stack.up("logins", "redis")
    service = unit_service()
    program, *words = service["ExecStart"].replace("%i", "ingest").replace("$WORKER_OPTIONS", "").split()
    assert program.endswith("/bin/pagepack")
    variables = stack.environment("ingest") | dict(word.split("=") for word in service["Environment"].split())
    variables |= {"PAGEPACK_HOME": str(tmp_path), "PAGEPACK_METRICS_PORT": stack.port("unit", "9464")}
    log = tmp_path / "log"
    worker = stack.spawn(stack.command("pagepack", words), variables, log)
    try:
        wait_until(lambda: "ready" in log.read_text())
    finally:
        worker.send_signal(signal.SIGTERM)
    assert worker.wait(float(service["TimeoutStopSec"])) == 0, log.read_text()
    assert float(service["TimeoutStopSec"]) > Settings.model_fields["grace_seconds"].default + 5
    assert (service["KillMode"], service["RestartPreventExitStatus"]) == ("mixed", "2")


def test_the_kubernetes_deployment_runs_and_answers_its_probes(stack: Stack, tmp_path: Path) -> None:
    """What docs/kubernetes.yaml gives the ingest pod: settings, URLs as files, probes."""
    stack.up("logins", "redis")
    items = yaml.safe_load((ROOT / "docs" / "kubernetes.yaml").read_text())["items"]
    settings = next(one["data"] for one in items if one["kind"] == "ConfigMap")
    pod = next(one for one in items if one["metadata"]["name"] == "pagepack-ingest")["spec"]["template"]["spec"]
    worker = pod["containers"][0]
    given = stack.environment("ingest")
    variables = {name: value for name, value in given.items() if not name.startswith("PAGEPACK_")} | settings
    for variable in worker["env"]:
        file = tmp_path / Path(variable["value"]).name
        file.write_text(given[variable["name"].removesuffix("_FILE")])
        variables[variable["name"]] = str(file)
    port = stack.port("pod", settings["PAGEPACK_METRICS_PORT"])
    variables |= {"PAGEPACK_HOME": str(tmp_path), "PAGEPACK_METRICS_PORT": port, "PAGEPACK_METRICS_HOST": "127.0.0.1"}
    variables["PAGEPACK_IMAGES_URL"] = f"file://{tmp_path}/images"  # there is no bucket
    log = tmp_path / "log"
    process = stack.spawn(stack.command("pagepack", worker["args"]), variables, log)

    def answers(probe: str) -> bool:
        assert process.poll() is None, log.read_text()
        try:
            url = f"http://127.0.0.1:{port}{worker[f'{probe}Probe']['httpGet']['path']}"
            return bool(urllib.request.urlopen(url, timeout=10).status == 200)
        except OSError:
            return False

    try:
        for probe in ("startup", "readiness", "liveness"):
            wait_until(lambda: answers(probe))  # noqa: B023 (asked at once)
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(pod["terminationGracePeriodSeconds"]) == 0, log.read_text()


def test_the_broker_asks_for_its_password_and_refuses_when_full(stack: Stack) -> None:
    stack.up("redis")
    port = int(stack.port("redis", "6379"))
    with redis.Redis(port=port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with redis.Redis(port=port, password=PASSWORDS["REDIS_PASSWORD"]) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_no_log_holds_a_password(stack: Stack) -> None:
    stack.up("ingest")
    for name in stack.order:
        log = stack.log(name).read_text()
        assert not any(password in log for password in PASSWORDS.values()), name


SECRETS_FILE = "docker-compose.secrets.yml"


@pytest.fixture(scope="module")
def stack_with_secrets(cold: ColdStarts) -> Iterator[Stack]:
    """As the head of the file says: its commands, and `.env` without a password."""
    folder = Path(tempfile.mkdtemp(prefix="pagepack-compose-"))
    folder.chmod(0o755)
    commands = re.findall(r"^#     (.*)$", (ROOT / SECRETS_FILE).read_text(), re.MULTILINE)
    subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=folder, check=True)
    assert (folder / "secrets").stat().st_mode & 0o777 == 0o700
    try:
        with Stack(folder, dict.fromkeys(PASSWORDS, "file"), cold, SECRETS_FILE, secrets=folder / "secrets") as stack:
            photograph(stack.documents / "street.jpg", "SUMMER CONCERT")
            yield stack
    finally:
        shutil.rmtree(folder)


def test_passwords_may_be_files(stack_with_secrets: Stack) -> None:
    """Each of the five lets its owner in; that what comes up so reads documents is tested above."""
    stack = stack_with_secrets
    stack.up("ingest", "flower")
    submitted = stack.run("pagepack", "submit", "/documents")
    assert submitted.returncode == 0, submitted.stderr
    for name, user in {"migrate": "pagepack", "ingest": "pagepack_ingest", "read": "pagepack_worker"}.items():
        url = Path(stack.environment(name)["PAGEPACK_DATABASE_URL_FILE"]).read_text().strip()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT current_user").fetchall() == [(user,)]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{stack.port('flower', '5555')}/workers", timeout=120)


def test_with_files_no_variable_and_no_log_holds_a_password(stack_with_secrets: Stack) -> None:
    stack = stack_with_secrets
    passwords = [file.read_text() for file in stack.documents.parent.glob("secrets/*_password")]
    assert len(set(passwords)) == len(PASSWORDS) and all(len(password) == 48 for password in passwords)
    merged = load_compose(dict.fromkeys(PASSWORDS, "word-of-env"), SECRETS_FILE)
    for name, service in merged["services"].items():
        assert not any("word-of-env" in value for value in service.get("environment", {}).values()), name
        assert set(service.get("secrets", [])) <= set(merged["secrets"]), name
    for name in stack.order:
        log = stack.log(name).read_text()
        assert not any(password in log for password in passwords), name
