"""A rehearsal where the code of an application is at odd places names what the night refuses."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sa_readonly.engines import rehearsing
from sa_readonly.rehearsal.notes import READ, notebook_of
from tests.app import SECONDS, WHICH, App

SOURCE = """
def picked(selector):
    return selector.engine()

def read(selector, what):
    engine = picked(selector)
    with engine.connect() as connection:
        connection.execute(what).all()
"""


class Ending(str):
    """A text by which something ends while it is being examined."""

    end: Callable[[], object]

    def __hash__(self) -> int:
        if sys._getframe(1).f_code is rehearsing._examine.__code__:
            self.end()
        return str.__hash__(self)


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
@pytest.mark.parametrize("parameters", [(), [("a",), ("b",)]])
def test_a_rehearsal_that_ends_in_the_middle_of_a_statement_harms_it_in_no_way(
    lite: App, level: Any, parameters: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lite.start(rehearse=True)
    notebook = notebook_of(lite.selector.switch)
    engine = lite.engines["rw"].execution_options(isolation_level=level)
    with engine.connect() as connection:
        statement = Ending("insert into book (title) values " + ("(?)" if parameters else "('a')"))
        statement.end = partial(notebook.wish, "process", on=False)
        connection.exec_driver_sql(statement, parameters)
        connection.commit()
    assert not notebook.on
    assert lite.titles("rw") == (["a", "b"] if parameters else ["a"])
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("name", ["/srv/lib/site-packages/shop/views.py", "<string>"])
def test_a_picked_engine_is_served_though_the_application_is_installed_or_a_mere_text(
    lite: App, name: str
) -> None:
    lite.start(rehearse=True)
    made: dict[str, Any] = {}
    exec(compile(SOURCE, name, "exec"), made)
    thread = threading.Thread(target=made["read"], args=(lite.selector, WHICH))
    thread.start()  # so that nothing of this file is on the stack
    thread.join(SECONDS)
    assert [key.kind for key in notebook_of(lite.selector.switch).entries] == [READ]


def test_a_directory_that_is_gone_fails_no_checkout(
    lite: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(rehearse=True)
    made: dict[str, Any] = {}
    exec(compile(SOURCE, "gone/views.py", "exec"), made)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError):
        os.getcwd()
    made["read"](lite.selector, WHICH)
    ((key, _),) = notebook_of(lite.selector.switch).entries.items()
    assert key.site.file == "gone/views.py"


def test_an_engine_that_was_picked_as_a_rehearsal_began_is_not_called_kept(lite: App) -> None:
    lite.start()
    notebook = notebook_of(lite.selector.switch)
    engine = lite.selector.engine()
    notebook.wish("file", on=True)
    with engine.connect() as connection:
        connection.execute(WHICH).all()
    assert [key.kind for key in notebook.entries] == [READ]


def test_a_selector_that_is_closed_in_the_middle_of_a_statement_harms_it_in_no_way(
    lite: App, caplog: pytest.LogCaptureFixture
) -> None:
    lite.start(rehearse=True)
    with lite.engines["rw"].begin() as connection:
        statement = Ending("insert into book (title) values ('a')")
        statement.end = lite.selector.close
        connection.exec_driver_sql(statement)
    assert lite.titles("rw") == ["a"]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
