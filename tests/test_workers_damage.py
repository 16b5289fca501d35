"""A directory of workers: reports of other versions, damaged ones and made-up ones."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sa_readonly import Mode
from sa_readonly.refusals import KINDS
from sa_readonly.workers import process, reports
from sa_readonly.workers.protocol import Connections, Report, Seen
from tests.workers import ALIVE, READ_WRITE, Place, place

__all__ = ["place"]  # a fixture


@contextlib.contextmanager
def acknowledged() -> Iterator[tuple[Place, Path]]:
    with tempfile.TemporaryDirectory() as directory:
        place = Place(Path(directory))
        entry = place.register()
        place.on()
        place.acknowledge(entry)
        yield place, place.report_of(entry)
        entry.close()


def test_bytes_of_any_kind_raise_nothing_and_are_not_drained() -> None:
    with acknowledged() as (place, path):
        valid = path.read_bytes()

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.binary(max_size=5000))
        @example(b"")
        @example(b"[" * 5000)
        @example(b"\0" * len(valid))
        @example(b'{"acknowledged":1}')
        def check(content: bytes) -> None:
            path.write_bytes(content)
            assert place.whys() == ["its report is damaged"]

        check()


def test_a_report_with_any_change_raises_nothing_and_is_not_drained() -> None:
    with acknowledged() as (place, path):
        valid = path.read_bytes()

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.integers(0, len(valid)), st.integers(0, len(valid)), st.binary(max_size=20))
        @example(len(valid), len(valid), b"\n")
        @example(len(valid) // 2, len(valid), b"")
        @example(0, 0, b" ")
        def check(start: int, end: int, new: bytes) -> None:
            content = valid[:start] + new + valid[max(start, end) :]
            path.write_bytes(content)
            assert place.look().holds is (content == valid)

        check()


@given(
    mode=st.sampled_from(Mode),
    generation=st.none() | st.text(max_size=100),
    connections=st.integers(0, 10**9),
    since=st.none() | st.floats(),
    checked=st.none() | st.floats(-1e14, 1e14),
    flips=st.integers(0, 10**9),
    refused=st.integers(0, 10**9),
    watching=st.booleans(),
    forced=st.none() | st.sampled_from(Mode),
    kinds=st.dictionaries(st.sampled_from(KINDS), st.integers(0, 10**9)),
    engines=st.dictionaries(
        st.sampled_from(["read_write.primary", "read_only.replica"]),
        st.builds(Connections, *[st.integers(0, 10**6)] * 3),
    ),
    retired=st.none() | st.floats(-1e14, 1e14),
    acknowledges=st.booleans(),
)
def test_every_report_is_read_back(acknowledges: bool, **fields: Any) -> None:
    report = Report(**fields)
    one = Seen("one", ALIVE)
    content = reports.encoded("one", acknowledges, report, process.about_me())
    seen, _ = reports.decoded(one, content)
    since = report.since
    if since is not None and not abs(since) < 1e15:
        since = None
    assert seen.report == replace(report, since=since)
    other = replace(one, name="two")
    with pytest.raises(ValueError):
        reports.decoded(other, content)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", '"read-mostly"'),
        ("mode", "[]"),
        ("generation", "7"),
        ("connections", "-1"),
        ("connections", "true"),
        ("connections", "1.0"),
        ("connections", str(2**63)),
        ("since", '"now"'),
        ("since", "NaN"),
        ("since", "1e999"),
        ("checked", "true"),
        ("watching", "1"),
        ("forced", '"no"'),
        ("born", '"yesterday"'),
        ("started", "[[]]"),
        ("kinds", "[]"),
        ("kinds", '{"flush": -1}'),
        ("engines", '{"read_write.primary": 1}'),
        ("engines", '{"read_write.primary": [1, 2, 3, 4]}'),
        ("engines", '{"read_write.primary": [1, 2, null]}'),
        ("retired", '"now"'),
        ("program", "[" * 2000 + "]" * 2000),
        ("format", '1, "mode": null'),
    ],
)
def test_a_report_that_somebody_made_up_is_damaged(place: Place, field: str, value: str) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    fields = json.loads(place.report_of(entry).read_bytes())
    del fields["acknowledged"], fields["check"]
    text = ",".join(
        f'"{name}": {value if name == field else json.dumps(old)}' for name, old in fields.items()
    )
    if field == "format":
        text += ', "mode": null'
    check = reports._check(entry.name, text.encode()).decode()
    content = f'{{"acknowledged":1,"check":"{check}",{text}}}\n'
    place.report_of(entry).write_text(content)
    assert place.whys() == ["its report is damaged"]


def test_a_report_of_another_format_is_named_and_not_drained(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    place.on()
    monkeypatch.setattr(reports, "_FORMAT", 2)
    place.acknowledge(entry)
    monkeypatch.undo()
    assert place.whys() == ["its report is of another version of sa_readonly"]


def test_a_report_copied_from_another_entry_is_damaged(place: Place) -> None:
    one, two = place.register(), place.register()
    place.on()
    place.acknowledge(one)
    place.report_of(two).write_bytes(place.report_of(one).read_bytes())
    assert place.whys() == ["its report is damaged"]


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo", "strange name"])
def test_what_is_no_lock_file_is_named_and_not_drained(place: Place, kind: str) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    path = place.path / f"{entry.name[:-16]}{'0' * 16}.lock"
    if kind == "symlink":
        path.symlink_to(f"{entry.name}.lock")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = place.path / "\x1b[2J.lock"
        path.touch()
    (why,) = place.whys()
    assert (
        why
        == {
            "symlink": "can't tell if it lives: its lock is not readable, "
            "Too many levels of symbolic links",
            "directory": "its lock is no file; remove it",
            "fifo": "its lock is no file; remove it",
            "strange name": "is no entry of a worker; remove it",
        }[kind]
    )
    assert all(one.name.isprintable() for one in place.read())
    place.off()
    place.registry.sweep(place.identity)
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_what_is_no_report_is_named_and_not_drained(place: Place, kind: str) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    path = place.report_of(entry)
    aside = path.rename(place.path / "aside")
    if kind == "symlink":
        path.symlink_to(aside)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    (why,) = place.whys()
    assert why.startswith("its report is ")
    if kind == "directory":
        path.rmdir()


def test_the_program_in_a_report_does_a_terminal_no_harm(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/srv/\x1b[2J\udc80evil"])
    place.register().report(lambda: Report(READ_WRITE))
    assert place.one().program == r"\x1b[2J\udc80evil"
    monkeypatch.setattr(sys, "argv", ["/lib/gunicorn/__main__.py"])
    place.register().report(lambda: Report(READ_WRITE))
    assert "gunicorn" in [one.program for one in place.read()]
