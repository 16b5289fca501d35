"""A rehearsal where the code of an application is at odd places names what the night refuses."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

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
