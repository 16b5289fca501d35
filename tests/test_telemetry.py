"""What log records and spans carry beside their text: docs/logs.md lists it."""

from __future__ import annotations

import ast
import logging
import re
import subprocess
import sys
import threading
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import insert

from sa_readonly import Mode, ReadOnlyError
from sa_readonly.mode import now
from tests.app import SECONDS, WHICH, App, Book, need
from tests.postgres import wait_until
from tests.test_house import rooms

PAGE = (Path(__file__).parent.parent / "docs" / "logs.md").read_text(encoding="utf-8")
STATE = frozenset({"switch", "mode", "reason", "until", "since", "generation"})


# -- log records -----------------------------------------------------------------------------


@cache
def calls() -> list[tuple[str, ast.Call, str, str]]:
    """Each call that matters here: where, its node, what is called, and with what before it."""
    found = []
    for room, path in rooms().items():
        source = path.read_text(encoding="utf-8")
        if not re.search(r"logger\.|_say\(|telemetry", source):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                whole = ast.unparse(node.func)
                found.append((f"{room}:{node.lineno}", node, whole.rpartition(".")[2], whole))
    return found


def test_each_log_record_carries_fields() -> None:
    records = [
        (where, {one.arg for one in node.keywords})
        for where, node, name, whole in calls()
        if whole == f"logger.{name}" and name in ("debug", "info", "warning", "error", "exception")
    ]
    assert [where for where, keywords in records if "extra" not in keywords] == []
    assert len(records) > 25


def test_the_page_lists_each_event_with_its_fields() -> None:
    found: dict[str, frozenset[str]] = {}
    for where, node, name, whole in calls():
        texts = [
            one.value
            for one in ast.walk(ast.Tuple(node.args[:2]))
            if isinstance(one, ast.Constant) and re.fullmatch("[a-z_]+", str(one.value))
        ]
        if name == "of_state" or (whole == "self._say" and not where.startswith("engines.server")):
            found.update((str(event), STATE) for event in texts[:1])
        elif name == "fields" and texts:
            found[str(texts[0])] = frozenset(str(one.arg) for one in node.keywords)
    rows = re.findall(r"^\| `(\w+)` \| [A-Z]+ \| .* \| (.*?) ?\|$", PAGE, re.MULTILINE)
    assert found == {
        event: STATE if "of the mode" in last else frozenset(re.findall(r"`(\w+)`", last))
        for event, last in rows
    }


def test_the_record_of_a_flip_has_the_mode_and_what_the_operator_wrote(
    lite: App, caplog: pytest.LogCaptureFixture
) -> None:
    lite.start()
    lite.selector.check()
    until = (now() + timedelta(hours=1)).replace(microsecond=0)
    lite.on(f"upgrade\nuntil: {until.isoformat()}")
    since = lite.selector.check().since
    with lite.sessions() as session, pytest.raises(ReadOnlyError):
        session.execute(insert(Book).values(title="a"))
    (record,) = caplog.records  # a refusal is none
    told = {key: value for key, value in vars(record).items() if key.startswith("sa_readonly_")}
    assert told == {
        "sa_readonly_event": "flip",
        "sa_readonly_switch": str(lite.path),
        "sa_readonly_mode": "read-only",
        "sa_readonly_reason": "upgrade",
        "sa_readonly_until": until.isoformat(),
        "sa_readonly_since": since.isoformat(),
        "sa_readonly_generation": lite.selector.state.generation,
    }


def test_the_filter_of_the_page_lets_flips_by() -> None:
    block = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(block, names)  # our own text
    for event in ("flip", "edited"):
        record = logging.makeLogRecord({"sa_readonly_event": event})
        assert names["Flips"]().filter(record) == (event == "flip")


# -- traces ----------------------------------------------------------------------------------


class Spans:
    """What the spans of an application were given, by a real tracer."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  # where it is installed
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: PLC0415
            InMemorySpanExporter,
        )

        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.span = provider.get_tracer("test").start_as_current_span

    def take(self) -> dict[str, Any]:
        """The attributes of the one span that has ended."""
        (span,) = self._exporter.get_finished_spans()
        self._exporter.clear()
        return dict(span.attributes or {})


@pytest.fixture
def spans() -> Spans:
    need("opentelemetry")
    pytest.importorskip("opentelemetry.sdk")
    return Spans()


def test_a_span_is_told_of_a_flip_and_of_a_refusal(lite: App, spans: Spans) -> None:
    lite.start()
    lite.selector.check()
    lite.on()
    with spans.span("request"):
        lite.selector.check()
    assert spans.take() == {"sa_readonly.mode": "read-only", "sa_readonly.flip.from": "read-write"}
    with spans.span("request"), lite.sessions() as session, pytest.raises(ReadOnlyError):
        session.execute(insert(Book).values(title="a"))
    refused = {"sa_readonly.mode": "read-only", "sa_readonly.refusal.kind": "statement"}
    assert spans.take() == refused
    with spans.span("request"), lite.sessions() as session:
        assert session.scalar(WHICH) == "ro"
    assert spans.take() == {}


def test_a_trace_that_fails_stops_neither_a_flip_nor_a_refusal(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start()
    told: list[Any] = []
    lite.selector.on_flip(lambda _, new: told.append(new.mode))
    # As it is while another thread is importing it.
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", ModuleType("opentelemetry.trace"))
    lite.on()
    assert lite.selector.check().read_only
    assert told == [Mode.READ_ONLY]
    with pytest.raises(ReadOnlyError):
        lite.selector.require_read_write()


@pytest.mark.parametrize("hold", [SECONDS, 0.01])
def test_a_span_is_told_how_long_it_was_held(lite: App, spans: Spans, hold: float) -> None:
    lite.on()
    lite.start(max_held=1)
    queue = lite.selector.held

    def work() -> None:
        with spans.span("request"):
            ticket = queue.ticket(hold)
            queue.wait(ticket)
            queue.end(ticket)

    thread = threading.Thread(target=work)
    thread.start()
    if hold == SECONDS:
        wait_until(lambda: queue.held[0] == 1, "it waits")
        lite.off()
    thread.join(SECONDS)
    told = spans.take()
    assert told.pop("sa_readonly.hold.outcome") == ("let go" if hold == SECONDS else "refused")
    assert 0 < told.pop("sa_readonly.hold.duration") < SECONDS
    told.pop("sa_readonly.mode", None), told.pop("sa_readonly.flip.from", None)  # it looked
    assert told == {}
    lite.selector.close()


def test_every_attribute_stands_on_the_page() -> None:
    shown = set(re.findall(r"^\| `(sa_readonly\.[a-z.]+)`", PAGE, re.MULTILINE))
    given = {
        "sa_readonly." + str(one.arg).replace("_", ".")
        for _, node, name, _ in calls()
        for one in node.keywords
        if (name == "on_span" or "on_span" in map(ast.unparse, node.args)) and one.arg
    }
    assert given == shown


def test_while_another_thread_imports_opentelemetry_a_flip_and_a_refusal_go_on(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start()
    lite.selector.check()
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", ModuleType("opentelemetry.trace"))
    lite.on()
    assert lite.selector.check().read_only
    with pytest.raises(ReadOnlyError):
        lite.selector.require_read_write()


def test_opentelemetry_is_not_imported_by_a_refusal() -> None:
    script = (
        "import sys\n"
        "from sa_readonly.telemetry import on_span\n"
        "on_span(mode='read-only')\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=SECONDS)
