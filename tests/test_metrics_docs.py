"""The alert rules, the dashboard and docs/metrics.md name what a real scrape gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from sa_readonly.refusals import KINDS
from tests.app import WHICH, make_app, need, sqlite_urls

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "metrics.md").read_text()
DASHBOARD = json.loads((DOCS / "grafana-dashboard.json").read_text())
TARGET = {"job", "instance"}  # labels that Prometheus adds
TEMPLATE = re.compile(r"\$labels\.(\w+)")  # in an alert
LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")  # in a dashboard


@dataclass(frozen=True)
class Used:
    """What a piece of the docs asks Prometheus, and the labels that it shows of the answer."""

    where: str
    expression: str
    shown: frozenset[str] = frozenset()

    @property
    def parsed(self) -> Any:
        import promql_parser  # noqa: PLC0415  # it is not installed everywhere

        text = self.expression.replace("$__rate_interval", "5m")
        return promql_parser.parse(text)  # it knows functions and types, too


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of each metric, scraped over HTTP while a connection is held over a flip."""
    need("prometheus_client")
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415

    from sa_readonly.metrics import ReadOnlyCollector  # noqa: PLC0415
    from tests.test_metrics import Scrape  # noqa: PLC0415

    place = tmp_path_factory.mktemp("metrics")
    with make_app(place, sqlite_urls(place, "rw", "ro")) as app:
        app.start()
        registry = CollectorRegistry()
        registry.register(ReadOnlyCollector(app.selector))
        server, thread = start_http_server(0, "127.0.0.1", registry)
        try:
            with app.sessions() as session:
                session.scalar(WHICH)
                app.on("Upgrade\nuntil: 2999-01-01T00:00:00Z")
                with urlopen(
                    f"http://127.0.0.1:{server.server_port}/metrics", timeout=60
                ) as answer:
                    return Scrape(answer.read().decode()).names
        finally:
            server.shutdown()
            server.server_close()
            thread.join(60)


def alerts() -> list[dict[str, Any]]:
    reason = "NOT TESTED: PyYAML is not installed. Cure: pip install PyYAML."
    yaml = pytest.importorskip("yaml", reason=reason)
    told = yaml.safe_load((DOCS / "alerts.yml").read_text())
    assert list(told) == ["groups"]
    (group,) = told["groups"]
    assert set(group) == {"name", "rules"}
    return list(group["rules"])


def in_alerts() -> Iterator[Used]:
    for rule in alerts():
        shown = TEMPLATE.findall(json.dumps(rule["annotations"]))
        yield Used(rule["alert"], rule["expr"], frozenset(shown))


def test_each_alert_has_its_part_of_the_runbook() -> None:
    heads = re.findall(r"^## (\w+)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)
    told = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in alerts()}
    assert told == {head: f"runbook.md#{head.lower()}" for head in heads}


def in_dashboard() -> Iterator[Used]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            shown = LEGEND.findall(target["legendFormat"])
            yield Used(panel["title"], target["expr"], frozenset(shown))
    (annotation,) = DASHBOARD["annotations"]["list"]
    shown = LEGEND.findall(annotation["textFormat"])
    yield Used(annotation["name"], annotation["expr"], frozenset(shown))
    for variable in variables():
        query = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert query is not None
        yield Used(variable["name"], query[1], frozenset([query[2]]))


def variables() -> list[dict[str, Any]]:
    return [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]


@pytest.mark.parametrize("docs", [in_alerts, in_dashboard])
def test_every_metric_and_label_that_is_asked_for_is_scraped(
    docs: Any, names: dict[str, set[str]]
) -> None:
    need("promql_parser")
    import promql_parser as promql  # noqa: PLC0415

    for used in docs():
        known: set[str] = set()

        def visit(node: Any, known: set[str] = known, used: Used = used) -> None:
            if isinstance(node, promql.VectorSelector):
                assert node.name in names, used
                known |= names[node.name] | TARGET
                labels = [one.name for one in node.matchers.matchers]
                assert set(labels) <= names[node.name] | TARGET, used

        promql.walk(used.parsed, visit)
        assert known, used

        def grouped(node: Any, known: set[str] = known, used: Used = used) -> None:
            modifier = getattr(node, "modifier", None)
            matching = getattr(modifier, "matching", modifier)
            assert set(getattr(matching, "labels", ())) <= known, used

        promql.walk(used.parsed, grouped)
        assert used.shown <= left(used.parsed, known), used


def left(node: Any, known: set[str]) -> set[str]:
    """The labels that the answer still has."""
    import promql_parser as promql  # noqa: PLC0415

    if isinstance(node, promql.AggregateExpr):
        return set(node.modifier.labels) if node.modifier else set()
    if isinstance(node, promql.BinaryExpr):
        sides = [side for side in (node.lhs, node.rhs) if not is_scalar(side)]
        return set.intersection(*(left(side, known) for side in sides))
    return left(node.expr, known) if isinstance(node, promql.ParenExpr) else known


def is_scalar(node: Any) -> bool:
    return str(node) in ("time()", "vector(0)") or hasattr(node, "val")


def test_the_rules_are_what_prometheus_reads() -> None:
    rules = alerts()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}


def test_the_dashboard_can_be_imported() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(DASHBOARD)
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in cells, f"{panel['title']} lies over another panel"
                cells.add((x, y))
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    asked = set(re.findall(r"\$(?!__)\{?(\w+)", json.dumps(DASHBOARD)))
    assert asked == {one["name"] for one in DASHBOARD["templating"]["list"]}


def test_the_page_tells_each_metric_and_kind(names: dict[str, set[str]]) -> None:
    told = set(re.findall(r"^\| `(sa_readonly_\w+)` \|", PAGE, re.MULTILINE))
    assert told == {name for name in names if name.startswith("sa_readonly_")}
    kinds = re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE)
    assert kinds == ["kind", *KINDS]  # with the head of the table
    assert {"switch"} == set.intersection(*(names[name] for name in told))


def test_what_the_page_asks_for_is_scraped(names: dict[str, set[str]]) -> None:
    need("promql_parser")
    (asked,) = re.findall(r"```\n(sum.*)\n```", PAGE)
    assert Used("the page", asked).parsed
    assert set(re.findall(r"sa_readonly_\w+", asked)) <= set(names)
