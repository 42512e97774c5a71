"""docs/kubernetes.yaml and its KEDA companion name what pagepack has: settings, probes, options, metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import click
import pytest
import yaml

from pipeline import __version__
from pipeline.cli.main import cli
from pipeline.settings import Settings
from pipeline.supervisor import health
from pipeline.telemetry.metrics import METRICS

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "kubernetes.yaml").read_text(encoding="utf-8")
OBJECTS: list[dict[str, Any]] = yaml.safe_load(TEXT)["items"]
SCALED: list[dict[str, Any]] = yaml.safe_load((DOCS / "kubernetes-keda.yaml").read_text(encoding="utf-8"))["items"]
SETTINGS = next(one["data"] for one in OBJECTS if one["kind"] == "ConfigMap")
WORKERS = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in OBJECTS if one["kind"] == "Deployment"}
PODS = WORKERS | {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in OBJECTS if one["kind"] == "Job"}
CONTAINERS = [
    (f"{name}/{one['name']}", pod, one)
    for name, pod in PODS.items()
    for one in [*pod.get("initContainers", []), *pod["containers"]]
]


def test_every_variable_is_a_setting_and_says_what_fits() -> None:
    variables = dict(SETTINGS)
    for _, _, container in CONTAINERS:
        variables |= {one["name"].removesuffix("_FILE"): None for one in container["env"]}
    names = {f"PAGEPACK_{name}".upper(): name for name in Settings.model_fields}
    assert set(variables) <= set(names)
    Settings(**{names[name]: value for name, value in SETTINGS.items()})
    files = {one["name"] for _, _, container in CONTAINERS for one in container["env"]}
    assert files == {"PAGEPACK_DATABASE_URL_FILE", "PAGEPACK_BROKER_URL_FILE"}


@pytest.mark.parametrize(("name", "pod", "container"), CONTAINERS, ids=[name for name, _, _ in CONTAINERS])
def test_a_container_says_a_command_that_there_is_and_is_confined(
    name: str, pod: dict[str, Any], container: dict[str, Any]
) -> None:
    command, words = cast(click.Command, cli), list(container["args"])
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(click.Context(command), words)
        assert found is not None
        command = found
    command.make_context("pagepack", words)
    assert re.fullmatch(rf"registry\.example/pagepack:{re.escape(__version__)}(-gpu)?", container["image"])
    assert container["image"].endswith("-gpu") == ("nvidia.com/gpu" in container["resources"]["limits"])
    assert {"memory"} <= set(container["resources"]["limits"]) and {"cpu", "memory"} == set(
        container["resources"]["requests"]
    )
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) <= volumes and {"/data", "/tmp"} <= set(mounts)
    assert all(Path(one["value"]).parent == Path("/run/secrets/pagepack") for one in container["env"])


@pytest.mark.parametrize("name", WORKERS)
def test_probes_ask_what_the_supervisor_serves(name: str) -> None:
    worker = WORKERS[name]["containers"][0]
    served = set(re.findall(r'"(/\w+)": lambda', Path(health.__file__).read_text()))
    asked = {kind: worker[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["path"] for kind, probe in asked.items()} == {
        "startup": "/healthz",
        "readiness": "/readyz",  # a broker that is away must not get the worker killed
        "liveness": "/healthz",
    }
    assert {probe["path"] for probe in asked.values()} <= served
    assert worker["ports"] == [{"name": "metrics", "containerPort": int(SETTINGS["PAGEPACK_METRICS_PORT"])}]
    assert {probe["port"] for probe in asked.values()} == {"metrics"}
    assert WORKERS[name]["terminationGracePeriodSeconds"] > float(SETTINGS["PAGEPACK_GRACE_SECONDS"]) + 5


def test_secrets_are_those_that_the_head_makes() -> None:
    head = TEXT.replace(" \\\n#      ", "")
    made = dict(re.findall(r"create secret generic (\S+) (.*)", head))
    named = {volume["secret"]["secretName"] for pod in PODS.values() for volume in pod["volumes"] if "secret" in volume}
    read = {
        one["secretRef"]["name"] for _, _, box in CONTAINERS for one in box.get("envFrom", []) if "secretRef" in one
    }
    assert named | read == set(made)
    for name, pod in PODS.items():
        secret = next(volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume)
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            for variable in container["env"]:
                assert f"--from-literal {Path(variable['value']).name}=" in made[secret], name


def test_what_scales_asks_for_metrics_of_the_whole_installation() -> None:
    whole = list(METRICS)[list(METRICS).index("pagepack_reachable") :]
    for scaled in SCALED:
        assert scaled["spec"]["scaleTargetRef"]["name"] in WORKERS
        for trigger in scaled["spec"]["triggers"]:
            asked = re.findall(r"max\((\w+)\)", trigger["metadata"]["query"])
            assert asked and set(asked) <= set(whole)
    assert {scaled["spec"]["scaleTargetRef"]["name"] for scaled in SCALED} == set(WORKERS)
    at_least = {scaled["metadata"]["name"]: scaled["spec"]["minReplicaCount"] for scaled in SCALED}
    assert at_least["pagepack-ingest"] == 1  # the leader is one of them
