"""What docs/bluegreen.md shows is run, on two databases of a PostgreSQL."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, text
from sqlalchemy.orm import sessionmaker

from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession
from tests.app import WHICH, App, Book, make_app
from tests.postgres import wait_until

DOCS = (Path(__file__).parent.parent / "docs" / "bluegreen.md").read_text()
BY_FILE, BY_SIGNAL = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)


@pytest.fixture
def shop(place: Path, pg_urls: dict[str, URL]) -> Iterator[App]:
    """Two databases: "rw" is blue, and "ro" is green."""
    with make_app(place, dict(pg_urls)) as made:
        lead(made, "rw")
        yield made


def url_file(app: App) -> Path:
    return app.path.parent / "url"


def lead(app: App, name: str) -> None:
    url_file(app).write_text(app.urls[name].render_as_string(hide_password=False) + "\n")


def start(app: App, block: str) -> EngineSelector:
    names: dict[str, Any] = {}
    block = block.replace("/var/lib/shop/read-only.txt", str(app.path))
    exec(block.replace("/run/secrets/shop/url", str(url_file(app))), names)  # our own text
    app.selector = names["selector"]
    app.sessions = sessionmaker(app.selector, class_=RoutingSession)
    return app.selector  # type: ignore[no-any-return]  # App has it as Any


def write(app: App, title: str) -> None:
    with app.sessions.begin() as session:
        session.add(Book(title=title))


def evening(app: App) -> None:
    write(app, "before")
    app.on()
    app.selector.check()
    with pytest.raises(ReadOnlyError):
        write(app, "in the night")


def morning(app: App) -> None:
    with app.sessions() as session:
        assert session.scalar(WHICH) == "rw"
        with pytest.raises(ReadOnlyError):
            session.execute(text("select nextval('book_id_seq')"))
    app.off()
    app.selector.check()
    write(app, "after")
    with app.sessions(role="replica") as session:
        assert session.scalar(WHICH) == "ro"
    assert [app.titles(name) for name in ("rw", "ro")] == [["before"], ["after"]]
    app.selector.engine().dispose()


def test_a_file_that_holds_the_url_moves_the_application(
    shop: App, caplog: pytest.LogCaptureFixture
) -> None:
    start(shop, BY_FILE)
    evening(shop)
    lead(shop, "ro")
    morning(shop)
    shown = shop.urls["ro"].set(query={}).render_as_string(hide_password=True)
    assert f"{url_file(shop)} has changed. It is {shown} now." in caplog.text


def test_a_signal_moves_the_application(shop: App, caplog: pytest.LogCaptureFixture) -> None:
    before = signal.getsignal(signal.SIGUSR2)
    try:
        selector = start(shop, BY_SIGNAL)
        blue = selector.engine()
        evening(shop)
        lead(shop, "ro")
        os.kill(os.getpid(), signal.SIGUSR2)
        wait_until(lambda: "read_write.primary was replaced" in caplog.text, "the replacement")
        morning(shop)
        with pytest.raises(ReadOnlyError, match="its engine was replaced"):
            blue.connect()
    finally:
        signal.signal(signal.SIGUSR2, before)
