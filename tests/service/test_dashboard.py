"""The dashboard and the alerts ask for series that a running service really has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from .conftest import Live

FOLDER = Path(__file__).parents[2] / "docker" / "observability"
DASHBOARD = FOLDER / "nextchunk.json"
SELECTOR = re.compile(r"\b((?:nextchunk|process)_[a-z_]+)(?:\{([^}]*)\})?")
ADDED_BY_PROMETHEUS = {"instance", "job"}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def alert_queries() -> list[str]:
    text = (FOLDER / "alerts.yaml").read_text()
    return [
        " ".join(one.split())
        for one in re.findall(r"expr: (?:>\n)?(.+?)\n        (?:for|annotations)", text, re.DOTALL)
    ]


def exported(service: Live) -> dict[str, set[str]]:
    """Label names of every series of a service that has answered, by series name."""
    service.ok("/v1/rank", {"context_ids": ["alpha:0"], "top_k": 1})
    found: dict[str, set[str]] = {}
    for family in parse(service.http.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_each_query_asks_for_series_and_labels_that_are_there(service: Live) -> None:
    known = exported(service)
    queries = [*dashboard_queries(), *alert_queries()]
    assert len(queries) > 40
    for query in queries:
        labels = set()
        # What is grouped by and shown, and label values in selectors, are no names of series.
        bare = re.sub(r'"[^"]*"', '""', query)
        for name, inside in SELECTOR.findall(bare):
            assert name in known, (name, query)
            asked = set(re.findall(r"(\w+)\s*(?:=|!)", inside))
            assert asked <= known[name] | ADDED_BY_PROMETHEUS, (query, asked)
            labels |= known[name]
        for group in re.findall(r"\bby \(([^)]*)\)", query):
            asked = {one.strip() for one in group.split(",")}
            assert asked <= labels | ADDED_BY_PROMETHEUS, (query, asked)


def test_batches_that_are_computed_are_counted(service: Live) -> None:
    def counted() -> tuple[float, float]:
        page = service.http.get("/metrics").text
        samples = [sample for family in parse(page) for sample in family.samples]
        found = {one.name: one.value for one in samples if "le" not in one.labels}
        return tuple(found[f"nextchunk_computed_queries_{what}"] for what in ("count", "sum"))

    before = counted()
    service.ok("/v1/rank", {"queries": [{"context_ids": [f"alpha:{n}"]} for n in range(3)]})
    batches, queries = (now - then for now, then in zip(counted(), before, strict=True))
    assert queries == 3
    assert 1 <= batches <= 3


@pytest.mark.parametrize(
    "what",
    [
        *("requests_total", "stage_duration_seconds_bucket", "computed_queries_sum"),
        *("fallbacks_total", "queue_waiting", "rejected_total", "store_version"),
        *("fresh_slots", "index_age_seconds"),
    ],
)
def test_the_dashboard_shows(what: str) -> None:
    assert any(f"nextchunk_{what}{{" in query for query in dashboard_queries())


def test_panels_are_drawn_beside_each_other() -> None:
    cells: set[tuple[int, int]] = set()
    numbers = [panel["id"] for panel in panels()]
    assert len(set(numbers)) == len(numbers)
    for panel in panels():
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not own & cells, panel["title"]
        cells |= own


def test_every_panel_asks_the_source_that_is_provisioned() -> None:
    (uid,) = re.findall(r"uid: (\S+)", (FOLDER / "datasource.yaml").read_text())
    compose = (FOLDER.parent / "compose.observability.yaml").read_text()
    (folder,) = re.findall(r"path: (\S+)", (FOLDER / "dashboards.yaml").read_text())
    assert f"./observability/nextchunk.json:{folder}/nextchunk.json:ro" in compose
    for panel in panels():
        sources = [panel, *panel.get("targets", [])] if panel["type"] != "row" else []
        assert all(one["datasource"] == {"type": "prometheus", "uid": uid} for one in sources)
        for target in panel.get("targets", []):
            variables = set(re.findall(r"\$(\w+)", target["expr"]))
            assert variables <= {"instance", "route", "__rate_interval"}
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    assert {one["name"] for one in variables} == {"instance", "route"}
