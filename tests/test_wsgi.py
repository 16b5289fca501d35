"""The WSGI middleware, through real servers and in the process."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine

from sa_readonly import EngineSelector, FixedSwitch, Mode, ReadOnlyError
from sa_readonly.wsgi import ReadOnlyMiddleware, response_for
from tests.app import once
from tests.postgres import wait_until
from tests.web_cases import PAGE, Cases, Settings, Site, serving

SERVERS = ["wsgiref", "gunicorn-sync", "gunicorn-gthread", "gunicorn-gevent"]


@pytest.fixture(scope="module", params=SERVERS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with serving(request.param) as started:
        yield started


class TestWsgi(Cases):
    def test_a_file_is_sent(self, fresh: Site) -> None:
        fresh.on()
        answer = fresh.ask("/file")
        assert (answer.text, answer.headers["X-Read-Only"]) == ("abc", "true")

    def test_the_validator_of_the_standard_library_had_nothing_to_say(self, site: Site) -> None:
        assert "AssertionError" not in site.log()
        assert "garbage collected" not in site.log()


class TestSettings(Settings):
    middleware = ReadOnlyMiddleware


@once
def test_any_of_several_processes_answers_for_all() -> None:
    with serving("gunicorn-gthread", workers=3) as several:

        def all_three() -> str | None:
            several.ask()  # each registers with its first request
            text = several.ask(PAGE, variant="details").text
            return text if "workers: 3" in text else None

        wait_until(all_three, "three workers")
        several.on()
        text = wait_until(
            lambda: text if "drained: 3" in (text := several.ask(PAGE).text) else None, "the drain"
        )
        assert text.endswith("workers: 3, noticed: 3, drained: 3\n")
        lines = several.ask(PAGE, variant="details").text.splitlines()
        assert len([line for line in lines if line.startswith("worker: ")]) == 3


# -- in the process --------------------------------------------------------------------------


@pytest.fixture
def reading() -> Iterator[EngineSelector]:
    engine = create_engine("sqlite:///unused.db")
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        yield selector


def environ(**more: Any) -> dict[str, Any]:
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.input": io.BytesIO(), **more}


class Starting:
    """What a server gives an application; it notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.written: list[bytes] = []

    def __call__(self, *told: Any) -> Any:
        self.told.append(told)
        return self.written.append


class Body:
    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = iter(pieces)
        self.closed = 0

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        piece = next(self.pieces)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self) -> None:
        self.closed += 1


def answering(body: Any) -> Any:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    return app


def test_a_list_and_a_file_are_given_on_as_they_are(reading: EngineSelector) -> None:
    class Wrapper(Body):
        pass

    for body in ([b"a", b"b"], (b"a",), Wrapper(b"a")):
        start = Starting()
        asked = environ(**{"wsgi.file_wrapper": Wrapper})
        assert ReadOnlyMiddleware(answering(body), reading)(asked, start) is body
        assert start.told == [("200 OK", [("Content-Type", "text/plain"), ("X-Read-Only", "true")])]


@pytest.mark.parametrize("last", [b"end", ReadOnlyError("no"), ValueError("no")])
def test_the_iterable_of_the_application_is_closed_once(reading: EngineSelector, last: Any) -> None:
    body = Body(b"", last)
    given = ReadOnlyMiddleware(answering(body), reading)(environ(), Starting())
    with contextlib.suppress(ValueError):
        list(given)
    assert body.closed == 0
    given.close()
    assert body.closed == 1


def test_each_piece_is_given_on_at_once_and_the_head_before_it(reading: EngineSelector) -> None:
    start = Starting()
    given = ReadOnlyMiddleware(answering(Body(b"", b"a", b"", b"b")), reading)(environ(), start)
    assert start.told == []
    assert next(given) == b"a"
    assert len(start.told) == 1
    assert list(given) == [b"", b"b"]


def test_a_response_without_a_body_has_a_head(reading: EngineSelector) -> None:
    start = Starting()
    assert list(ReadOnlyMiddleware(answering(Body()), reading)(environ(), start)) == []
    assert start.told[0][0] == "200 OK"


def test_an_application_may_begin_again_with_its_own_error(reading: EngineSelector) -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            raise ValueError
        except ValueError as error:
            write = start_response("500 Oops", [], (ValueError, error, None))
        write(b"sorry")
        start_response("502 Oops", [], "given on")
        return []

    start = Starting()
    ReadOnlyMiddleware(app, reading)(environ(), start)
    assert start.written == [b"sorry"]
    assert start.told == [
        ("500 Oops", [("X-Read-Only", "true")]),
        ("502 Oops", [], "given on"),
    ]


def test_response_for_is_an_application_too() -> None:
    error = ReadOnlyError("INSERT INTO secret is refused", reason="Upgrade")
    response = response_for(error, environ(HTTP_ACCEPT="text/plain"), status=423)
    start = Starting()
    assert response(environ(), start) == [response.body]
    assert response(environ(REQUEST_METHOD="HEAD"), start) == []
    assert start.told[0] == ("423 Locked", list(response.headers))
    assert response.body == (
        b"Not saved: the application is read-only. Try again later.\nreason: Upgrade\n"
    )


def test_a_middleware_answers_with_its_own_status(reading: EngineSelector) -> None:
    made = ReadOnlyMiddleware(answering([]), reading, status=599)
    response = made.response_for(ReadOnlyError("no"), environ())
    assert (response.status, response.phrase) == (599, "Read-only")


def test_a_coroutine_function_can_not_say_who_sees_the_workers(reading: EngineSelector) -> None:
    async def details(_environ: Any) -> bool:
        return False

    with pytest.raises(Exception, match="takes no coroutine function in WSGI"):
        ReadOnlyMiddleware(answering([]), reading, details=details)
