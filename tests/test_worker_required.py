"""This process as a worker: a directory that can't be used, and what `required` makes of it."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import create_engine

from sa_readonly import (
    ConfigurationError,
    EngineSelector,
    Mode,
    ReadOnlyError,
    State,
    Switch,
)
from sa_readonly.workers.worker import Worker
from tests.app import WHICH, App, Book
from tests.by_url import end_lingering
from tests.worker_app import lite, read, unusable, verdict

__all__ = ["lite"]  # a fixture


def test_who_cant_register_says_so_once_and_goes_on(
    lite: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sa_readonly")
    lite.start()
    with unusable(lite):
        for _ in range(3):
            assert read(lite) == "rw"
        lite.on()
        assert read(lite) == "ro"
        lite.off()
        assert read(lite) == "rw"
        (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "can't register in" in error.getMessage()
        assert lite.selector._worker.reporting.problem == error.getMessage()
    assert read(lite) == "rw"
    assert lite.selector._worker.reporting.problem is None
    assert caplog.records[-1].getMessage() == "This process is registered, and reports again."
    lite.on()
    read(lite)
    assert verdict(lite).holds


def test_who_must_register_and_cant_reads_and_writes_nothing(lite: App) -> None:
    lite.start(workers="required")
    with unusable(lite):
        assert read(lite) == "ro"
        with pytest.raises(ReadOnlyError) as caught, lite.sessions.begin() as session:
            session.add(Book(title="x"))
        assert str(caught.value).startswith(
            'A read-write transaction is refused: workers="required", and this process is not '
            "registered. Nothing was written. This process can't register in "
        )
        with pytest.raises(ReadOnlyError):
            lite.engines["rw"].raw_connection()
    assert read(lite) == "rw"
    with lite.sessions.begin() as session:
        session.add(Book(title="y"))
    assert lite.titles("rw") == ["y"]


@pytest.mark.parametrize("ttl", [0, 60])
def test_who_must_be_registered_and_is_no_more_begins_nothing_on_a_held_connection(
    lite: App, ttl: float
) -> None:
    lite.start(workers="required", ttl=ttl)
    with lite.engines["rw"].connect() as connection:
        connection.scalar(WHICH)
        connection.commit()
        with unusable(lite):
            lite.selector.check()
            with pytest.raises(ReadOnlyError, match="is not registered"):
                connection.scalar(WHICH)
        lite.selector.check()
        assert connection.scalar(WHICH) == "rw"


@pytest.mark.parametrize("ttl", [0, 60])
def test_who_must_be_registered_and_is_no_more_sends_nothing_under_autocommit(
    lite: App, ttl: float
) -> None:
    lite.start(workers="required", ttl=ttl)
    engine = lite.engines["rw"].execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.scalar(WHICH)
        with unusable(lite):
            lite.selector.check()
            with pytest.raises(ReadOnlyError, match="is not registered"):
                connection.scalar(WHICH)


def test_an_engine_by_url_that_cant_be_registered_is_refused_and_asks_no_more(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = Worker._refuse, list[Worker]()

    def refuse(worker: Worker) -> ReadOnlyError:
        asked.append(worker)
        assert len(asked) < 10
        return real(worker)

    monkeypatch.setattr(Worker, "_refuse", refuse)
    options = f"plugin=sa_readonly&sa_readonly_file={lite.path}&sa_readonly_workers=required"
    engine = create_engine(f"{lite.urls['rw']}?{options}")
    with unusable(lite), pytest.raises(ReadOnlyError, match="is not registered"):
        engine.connect()
    engine.dispose()
    end_lingering()


def test_what_is_required_needs_a_place(lite: App) -> None:
    class Other(Switch):
        known = State(Mode.READ_WRITE)

        def check(self) -> State:
            return self.known

        def subscribe(self, gate, flipped):
            gate(self.known)
            return lambda: None

    with pytest.raises(ConfigurationError, match=r'workers="required"\) needs the path of a file'):
        EngineSelector(Other(), read_write=lite.engine("rw"), workers="required")
