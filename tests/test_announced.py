"""What is announced beside a file: how it is read, and what tells it to people."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import textwrap
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from sa_readonly import FileSwitch, Mode
from sa_readonly.announced import announced_in, content_of
from sa_readonly.asgi import ReadOnlyMiddleware as AsgiMiddleware
from sa_readonly.engines.server import REASON, ServerSwitch
from sa_readonly.mode import Announced, State
from sa_readonly.text import LIMIT
from sa_readonly.web.answers import headers_of
from sa_readonly.web.status import as_html
from sa_readonly.workers.status import snapshot
from sa_readonly.wsgi import ReadOnlyMiddleware
from tests.app import App
from tests.postgres import wait_until
from tests.worker_app import lite, read

__all__ = ["lite"]  # a fixture

SOON = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=1)
NIGHT = Announced(SOON, SOON + timedelta(hours=2), "Upgrade\nto 18")


@pytest.fixture
def switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileSwitch:
    """One that looks ahead each time it is asked to, and not once a second."""
    monkeypatch.setattr("sa_readonly.announced._PAUSE", 0)
    return FileSwitch(tmp_path / "read-only.txt", ttl=0)


def announce(switch: FileSwitch, content: bytes) -> Announced | None:
    Path(f"{switch.path}.announced").write_bytes(content)
    switch.look_ahead()
    return switch.known.announced


@pytest.mark.parametrize("announced", [NIGHT, Announced(SOON), Announced(SOON, None, "until: x")])
def test_what_is_written_is_read_back(announced: Announced) -> None:
    assert announced_in(content_of(announced)) == announced


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Upgrade",
        b"from: tomorrow",
        b"until: 2030-01-01\nfrom: 2029-01-01",
        b"\xff\0from",
        b"[" * 9999,
    ],
)
def test_a_text_without_a_good_time_announces_nothing(switch: FileSwitch, content: bytes) -> None:
    assert announce(switch, content) is None


@pytest.mark.parametrize(
    ("reason", "why"),
    [("x" * LIMIT, "reason is too long"), ("until: 2030-01-01T00:00Z", "read as until")],
)
def test_what_would_not_be_read_back_is_not_rendered(reason: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        content_of(Announced(SOON, None, reason))
    with pytest.raises(ValueError, match="out of range"):
        content_of(Announced(SOON, datetime.max.replace(tzinfo=timezone(-timedelta(hours=9)))))


def test_it_is_told_beside_each_answer_in_both_modes_and_moves_none(switch: FileSwitch) -> None:
    assert announce(switch, content_of(NIGHT)) == NIGHT
    known = switch.check()
    assert (known.mode, known.reason, known.announced) == (Mode.READ_WRITE, None, NIGHT)
    assert switch.enable("now").announced == NIGHT
    assert switch.disable().announced == NIGHT
    os.unlink(f"{switch.path}.announced")
    switch.look_ahead()
    assert switch.check().announced is None


def test_what_is_over_is_told_no_more(switch: FileSwitch) -> None:
    past = SOON - timedelta(days=1)
    assert announce(switch, content_of(Announced(past, past + timedelta(hours=1)))) is None
    # It has begun, and is not over: it is told, also where the operator is late.
    late = Announced(past, SOON)
    assert announce(switch, content_of(late)) == late


def test_what_could_not_be_read_once_is_read_the_next_time(
    switch: FileSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: str) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    with monkeypatch.context() as patch:
        patch.setattr("sa_readonly.announced.head", fails)
        assert announce(switch, content_of(NIGHT)) is None
    switch.look_ahead()
    assert switch.known.announced == NIGHT


def test_an_edit_is_seen_by_one_stat(switch: FileSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(switch, content_of(NIGHT))
    opened: list[Any] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda *given: opened.append(given) or real(*given))
    switch.look_ahead()
    assert opened == []
    assert announce(switch, content_of(Announced(SOON))) == Announced(SOON)
    assert len([one for one in opened if str(one[0]).endswith(".announced")]) == 1


def _link(path: Path) -> None:
    (path.parent / "other").write_bytes(content_of(NIGHT))
    path.symlink_to("other")


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize("make", [_link, _huge, os.mkfifo, Path.mkdir, Path.touch])
def test_what_is_no_text_is_not_followed_and_blocks_nothing(
    switch: FileSwitch, make: Callable[[Path], object]
) -> None:
    make(Path(f"{switch.path}.announced"))
    switch.look_ahead()
    assert switch.known.announced is None


def test_a_process_tells_it_within_two_seconds_and_its_worker_does_not_flip(lite: App) -> None:
    lite.start(ttl=0.05, watch=True)
    read(lite)
    flips: list[Any] = []
    lite.selector.on_flip(lambda *both: flips.append(both))
    Path(f"{lite.path}.announced").write_bytes(content_of(NIGHT))
    wait_until(lambda: lite.selector.state.announced == NIGHT, "it to be told", 10)
    assert lite.selector.mode is Mode.READ_WRITE
    assert flips == []


def test_a_process_without_a_thread_tells_it_by_its_traffic(lite: App) -> None:
    Path(f"{lite.path}.announced").write_bytes(content_of(NIGHT))
    lite.start(ttl=0, watch=False)
    read(lite)
    assert lite.selector.state.announced == NIGHT


def test_a_state_by_the_word_of_a_server_tells_it_too(switch: FileSwitch) -> None:
    def nothing() -> None:
        pass

    server = ServerSwitch(
        switch, lambda: "db", shut=nothing, reopen=nothing, may_write=lambda: False
    )
    announce(switch, content_of(NIGHT))
    server.turn()
    found = server.over(switch.known)
    assert (found.reason, found.announced) == (REASON, NIGHT)


def test_a_response_has_the_times_as_headers_unless_an_inner_one_has_set_them() -> None:
    state = State(Mode.READ_WRITE, announced=NIGHT)
    told = [("X-Read-Only-From", SOON.isoformat()), ("X-Read-Only-Until", NIGHT.until.isoformat())]  # type: ignore[union-attr]  # it has one
    assert headers_of(state, []) == told
    assert headers_of(state, ["x-read-only-from"]) == told[1:]
    assert headers_of(State(Mode.READ_ONLY, announced=Announced(SOON)), ["Vary"]) == [
        ("X-Read-Only", "true"),
        told[0],
    ]
    assert headers_of(State(Mode.READ_WRITE), ["Vary"]) == []


def test_each_response_of_either_middleware_tells_it(lite: App) -> None:
    Path(f"{lite.path}.announced").write_bytes(content_of(NIGHT))
    lite.start(ttl=0)
    read(lite)
    heads: list[Any] = []

    def wsgi(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    middleware = ReadOnlyMiddleware(wsgi, lite.selector)
    b"".join(middleware(environ, lambda _status, headers: heads.append(dict(headers))))  # type: ignore[arg-type,return-value]  # nothing is written

    async def asgi(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        if "headers" in message:
            heads.append({k.decode(): v.decode() for k, v in message["headers"]})

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(AsgiMiddleware(asgi, lite.selector)(scope, None, send))  # type: ignore[arg-type]  # nothing is received
    until = NIGHT.until
    assert until is not None
    assert heads == [
        {
            "Content-Type": "text/plain",
            "X-Read-Only-From": SOON.isoformat(),
            "X-Read-Only-Until": until.isoformat(),
        },
        {"x-read-only-from": SOON.isoformat(), "x-read-only-until": until.isoformat()},
    ]


def test_the_status_page_tells_it_in_each_of_its_forms() -> None:
    hostile = Announced(SOON, None, "<b>\x1b[31mred")
    shown = snapshot(State(Mode.READ_WRITE, announced=hostile), [], 0.0)
    line = f"announced: read-only from {SOON.isoformat()}: <b>\\x1b[31mred\n"
    assert line in shown.as_text()
    assert shown.as_json()["announced"] == {
        "time": SOON.isoformat(),
        "until": None,
        "reason": hostile.reason,
    }
    page = as_html(shown)
    assert "<dt>Announced</dt>" in page
    assert "&lt;b&gt;\\x1b[31mred" in page


def test_the_banner_in_the_docs_tells_it_until_it_begins(switch: FileSwitch) -> None:
    docs = Path(__file__).parent.parent / "docs" / "announcing.md"
    (block,) = re.findall(r"```python\n(.*?)```", docs.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(textwrap.dedent(block), names)  # our own text
    assert names["banner"](switch) == ""
    announce(switch, content_of(NIGHT))
    assert names["banner"](switch) == f"Read-only from {SOON:%H:%M} UTC: Upgrade\nto 18"
    switch.enable()
    assert names["banner"](switch) == ""
