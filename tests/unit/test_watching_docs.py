"""The docs of watching, the dashboard and the alerts name what is served; incidents.md says what to do then."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli.main import cli
from pipeline.query.sql import run_sql
from pipeline.settings import Settings
from pipeline.telemetry.metrics import METRICS

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def metrics_table() -> str:
    """The table of metrics, as it must read."""
    rows = [
        f"| `{name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.meaning} |"
        for name, metric in METRICS.items()
    ]
    return "| metric | kind | labels | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def test_the_documentation_has_every_metric() -> None:
    assert metrics_table() in (DOCS / "watching.md").read_text(encoding="utf-8")


def test_the_dashboard_asks_only_for_metrics_and_labels_that_exist() -> None:
    for expression in EXPRESSIONS:
        names = re.findall(r"pagepack_\w+", expression)
        assert names
        labels = {"instance", "le"}  # Prometheus' own, and the histogram's
        for name in names:
            known = name if name in METRICS else re.sub(r"_(bucket|count|sum)$", "", name)
            assert known in METRICS, name
            assert known == name or METRICS[known].kind == "histogram"
            labels |= set(METRICS[known].labels)
            if METRICS[known].kind == "counter":
                assert re.search(rf"(rate|increase)\({name}", expression), "a counter is of use as a rate only"
        asked = re.findall(r"by \(([^)]*)\)", expression) + re.findall(r'(\w+)=~?"', expression)
        assert {label.strip() for group in asked for label in group.split(",")} <= labels, expression


def test_every_metric_is_on_the_dashboard() -> None:
    assert {name for name in METRICS if not any(name in expression for expression in EXPRESSIONS)} == set()


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: str(panel["title"]))
def test_a_panel_has_its_place_its_source_and_its_unit(panel: dict[str, Any]) -> None:
    assert {"id", "type", "title", "datasource", "gridPos", "fieldConfig", "options", "targets"} <= set(panel)
    place = panel["gridPos"]
    assert place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0
    assert panel["fieldConfig"]["defaults"]["unit"]
    for part in (panel, *panel["targets"]):
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_have_ids_of_their_own_and_the_source_is_a_variable() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    variables = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "instance": "query"}
    assert DASHBOARD["schemaVersion"] >= 39 and DASHBOARD["title"] and DASHBOARD["uid"]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_alerts_ask_only_for_metrics_that_exist_and_each_is_held_by_a_rule_test() -> None:
    for rule in alerts():
        assert set(re.findall(r"pagepack_\w+", rule["expr"])) <= set(METRICS), rule["alert"]
    held = (Path(__file__).parents[1] / "alerts.test.yml").read_text(encoding="utf-8")
    assert all(rule["alert"] in held for rule in alerts())


def test_each_alert_leads_to_a_section_that_is_there() -> None:
    titles = re.findall(r"^## (.*)$", (DOCS / "incidents.md").read_text(encoding="utf-8"), re.MULTILINE)
    sections = {f"docs/incidents.md#{title.lower().replace(' ', '-')}" for title in titles}
    assert {rule["annotations"]["runbook"] for rule in alerts()} <= sections
    within = re.findall(r"\]\((#[^)]*)\)", (DOCS / "incidents.md").read_text(encoding="utf-8"))
    assert {f"docs/incidents.md{link}" for link in within} <= sections


def test_the_commands_of_the_incident_page_exist_and_its_queries_run(settings: Settings) -> None:
    said = (DOCS / "incidents.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ (pagepack .*?)(?:  +#.*)?$", said, re.MULTILINE) + re.findall(r"`(pagepack [^`]*)`", said)
    assert len(shown) >= 12
    for line in shown:
        words = shlex.split(line)[1:]
        command: Any = cli
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {flag for one in command.params for flag in one.opts}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}, line
        if command.name == "sql":
            run_sql(settings, words[-1])
