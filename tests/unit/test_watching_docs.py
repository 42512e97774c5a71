"""docs/watching.md and docs/grafana.json name what is served, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

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
