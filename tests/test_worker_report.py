"""This process as a worker: what it reports and when, and what it tells of itself."""

from __future__ import annotations

import os
import shutil

import pytest

from sa_readonly import EngineSelector, FixedSwitch, Mode
from sa_readonly.workers.protocol import RegistryError
from tests.app import App, Book
from tests.postgres import wait_until
from tests.worker_app import lite, one, read, registry, verdict, whys

__all__ = ["lite"]  # a fixture


# -- what it reports --------------------------------------------------------------------------


def test_drained_is_said_when_the_last_connection_is_closed(app: App) -> None:
    app.start()
    with app.sessions.begin() as session:
        session.add(Book(title="before"))
        session.flush()
        app.on()
        app.selector.check()
        assert whys(app) == ["1 connection out since 0 s, no watcher thread runs there"]
    app.selector.check()
    assert verdict(app).holds
    assert app.titles("rw") == ["before"]


def test_an_idle_process_is_drained_by_its_thread(app: App) -> None:
    app.start(ttl=0.02, watch=True)
    read(app)
    app.on()
    wait_until(lambda: verdict(app).holds, "drained")
    app.off()
    wait_until(lambda: verdict(app, Mode.READ_WRITE).holds, "read-write again")
    report = one(app).report
    assert report is not None
    assert (report.flips, report.watching) == (2, True)
    app.selector.close()


def test_without_a_thread_each_transaction_sees_to_the_report(app: App) -> None:
    app.start(watch=False)
    read(app)
    app.on()
    assert read(app) == "ro"
    assert verdict(app).holds


def test_a_thread_that_stands_still_counts_for_none(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(ttl=0.02, watch=True)
    read(lite)
    watcher = lite.selector._worker.watcher
    assert watcher.alive
    monkeypatch.setattr(watcher, "tick", lambda: None)  # as under uWSGI without threads
    wait_until(lambda: not watcher.alive, "a second without a look")
    assert read(lite) == "rw"
    report = one(lite).report
    assert report is not None
    assert not report.watching
    lite.on()
    wait_until(lambda: read(lite) == "ro", "the end of ttl")
    assert verdict(lite).holds
    lite.selector.close()


def test_an_edit_of_the_file_is_acknowledged_anew(lite: App) -> None:
    lite.start()
    lite.on()
    read(lite)
    assert verdict(lite).holds
    lite.on("another reason")
    assert whys(lite) == ["has not noticed, no watcher thread runs there"]
    lite.selector.check()
    assert verdict(lite).holds


def test_a_process_that_starts_read_only_is_drained_at_once(lite: App) -> None:
    lite.on()
    lite.start()
    assert read(lite) == "ro"
    assert verdict(lite).holds


def test_a_process_with_a_door_that_does_not_shut_acknowledges_nothing(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start()
    read(lite)
    (door,) = lite.selector._worker.counts.doors[:1]

    def stuck(*_: object, **__: object) -> None:
        raise RuntimeError("stuck")

    lite.on()
    with monkeypatch.context() as patch:
        patch.setattr(door, "shut", stuck)
        assert lite.selector.check().read_only
        assert whys(lite) == ["has not noticed, no watcher thread runs there"]
    lite.selector.check()
    assert verdict(lite).holds


def test_the_report_is_withdrawn_before_a_door_opens(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start()
    lite.on()
    read(lite)
    (door,) = lite.selector._worker.counts.doors[:1]
    opened, seen = door.open, []

    def look_first(by: object) -> None:
        seen.append(one(lite).acknowledged)
        opened(by)

    lite.off()
    with monkeypatch.context() as patch:
        patch.setattr(door, "open", look_first)
        assert lite.selector.check().mode is Mode.READ_WRITE
    assert seen[-1] is False
    assert seen


def test_what_cant_be_withdrawn_keeps_the_process_read_only(
    lite: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lite.start()
    lite.on()
    read(lite)
    entry = lite.selector._worker.reporting._entry

    def fail() -> None:
        raise RegistryError("It can't be taken back.")

    with monkeypatch.context() as patch:
        patch.setattr(entry, "withdraw", fail)
        lite.off()
        assert read(lite) == "ro"
        assert "this process stays read-only for now" in caplog.text
    assert read(lite) == "rw"


# -- what it tells of itself ------------------------------------------------------------------


def test_a_process_tells_of_itself_what_its_entry_tells(lite: App) -> None:
    lite.start()
    for flip in (lambda: None, lite.on, lite.off):
        flip()
        read(lite)
        lite.selector.check()
        told, entry = lite.selector.report(), one(lite)
        for name in ("pid", "host", "program", "acknowledged", "problem", "liveness"):
            assert getattr(told, name) == getattr(entry, name), name
        names = ["mode", "generation"]
        if lite.selector.read_only:  # what no verdict needs may be written later
            names += ["connections", "flips"]
        for name in names:
            assert getattr(told.report, name) == getattr(entry.report, name), name


def test_what_a_process_tells_of_itself_touches_no_file(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(ttl=3600)
    read(lite)
    shutil.rmtree(f"{lite.path}.workers")
    lite.on()
    told = lite.selector.report()
    assert told.report is not None
    assert (told.report.mode, told.report.connections) == (Mode.READ_WRITE, 1)


def test_a_selector_tells_where_its_process_reports(lite: App) -> None:
    lite.start()
    assert lite.selector.registry == registry(lite)
    lite.start(workers=False)
    assert lite.selector.registry is None
    assert "nobody can wait for it" in lite.selector.report().problem


def test_a_process_with_a_fixed_switch_tells_of_itself_too(lite: App) -> None:
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=lite.engine("rw")) as selector:
        told = selector.report()
    assert told.report is not None
    assert (told.report.mode, told.pid) == (Mode.READ_ONLY, os.getpid())
