"""One table of cases for both middlewares, through real servers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from sa_readonly import ConfigurationError
from sa_readonly.web.answers import Request
from sa_readonly.workers.protocol import Registry, RegistryError, Seen
from tests.app import App, Book, fill, sqlite_urls
from tests.postgres import wait_until

ROOT = Path(__file__).parent.parent
PAGE = "/-/read-only"
HTML, JSON, TEXT = "text/html", "application/json", "text/plain"
PROBLEM = "application/problem+json"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
NASTY = (
    'Back <script>alert(1)</script> & "soon"\r\nSet-Cookie: evil=1\r\n\r\n<b>x</b>\x1b[31m\u202e'
)


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        return self.headers.get_content_type()


@dataclass
class Site:
    """A server that runs."""

    place: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def file(self) -> Path:
        return self.place / "read-only.txt"

    def on(self, text: str = "Upgrade") -> None:
        self.file.write_bytes(text.encode())

    def off(self) -> None:
        self.file.unlink(missing_ok=True)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        *,
        accept: str | None = None,
        variant: str = "",
        body: bytes | None = None,
        **headers: str,
    ) -> Reply:
        sent = {"X-Variant": variant, **{k.replace("_", "-"): v for k, v in headers.items()}}
        if accept is not None:
            sent["Accept"] = accept
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())

    def drain(self) -> None:
        """Wait until the page tells, as each variant of it does for itself, that all is drained."""
        for variant in ("", "details"):
            wait_until(
                lambda variant=variant: "drained: 1" in self.ask(PAGE, variant=variant).text,
                "drained",
            )

    def log(self) -> str:
        return (self.place / "log").read_text()

    def logged(self, text: str) -> bool:
        return wait_until(lambda: text in self.log(), f"{text!r} in the log")

    @property
    def saved(self) -> int:
        total = 0
        for url in sqlite_urls(self.place, "rw", "ro").values():
            engine = create_engine(url, poolclass=NullPool)
            with engine.connect() as connection:
                total += len(connection.execute(Book.__table__.select()).all())
        return total


def command(kind: str, fd: int, workers: int, app: str = "") -> list[str]:
    """How a kind of server is started; skips where it is not installed.

    :param app: for gunicorn, another one than that of `tests.web_server`.
    """
    name, _, how = kind.partition("-")
    for needed in {name, "gevent"} if how == "gevent" else {name}:
        if needed != "wsgiref" and find_spec(needed) is None:
            pytest.skip(f"NOT TESTED: {needed} is not installed. Cure: pip install {needed}.")
    python = [sys.executable, "-W", "error", "-m"]
    if name == "wsgiref":
        return [*python, "tests.web_server", "wsgiref"]
    python = [sys.executable, "-m"]  # a server's own warnings are not ours
    if name == "uvicorn":
        app = ["--factory", "tests.web_server:asgi_site"]
        return [*python, "uvicorn", *app, "--fd", str(fd), "--http", "h11", "--lifespan", "on"]
    served = [app or "tests.web_server:wsgi_site()", "--bind", f"fd://{fd}", "--no-control-socket"]
    return [*python, "gunicorn", *served, "--worker-class", how, "--workers", str(workers)]


@contextlib.contextmanager
def serving(
    kind: str, workers: int = 1, *, source: str | None = None, **environment: str
) -> Iterator[Site]:
    """Run a server.

    :param source: of a module that has the application as `served`, for gunicorn.
    """
    place = Path(tempfile.mkdtemp(prefix="sa-readonly-web-"))
    try:
        if source is not None:
            (place / "served.py").write_text(source)
            environment["PYTHONPATH"] = f"{place}:{ROOT}"
        for name, url in sqlite_urls(place, "rw", "ro").items():
            fill(url, name)
        with socket.create_server(("127.0.0.1", 0)) as listener, (place / "log").open("wb") as log:
            port, fd = listener.getsockname()[1], listener.fileno()
            process = subprocess.Popen(
                command(kind, fd, workers, "" if source is None else "served:served"),
                cwd=ROOT,
                env={
                    **os.environ,
                    **environment,
                    "SA_TEST_PLACE": str(place),
                    "SA_TEST_FD": str(fd),
                },
                stdout=log,
                stderr=log,
                pass_fds=[fd],
            )
        site = Site(place, port, process)
        try:
            try:
                site.ask()  # the listener is there: it waits until it is answered
            except OSError as error:
                raise RuntimeError(f"{kind} does not serve:\n{site.log()}") from error
            yield site
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(place)


class Page(HTMLParser):
    """What a page shows, and what it is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.shown: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1][0] not in ("style", "script"):
            self.shown.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.shown).split())

    @property
    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]


class Counting(Registry):
    """A registry that counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def register(self, _identify: Any) -> Any:
        raise RegistryError("It is for reading only.")

    def sweep(self, _identify: Any) -> None: ...

    def read(self) -> list[Seen]:
        self.reads += 1
        return []


class Settings:
    """What both refuse to be set to, and what they share. ``middleware`` is the class."""

    middleware: Any

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"status_path": "-/read-only"}, "status_path) takes a path"),
            ({"status_path": 1}, "status_path) takes a path"),
            ({"status": 200}, "status) takes a status code from 400 to 599, not 200."),
            ({"status": True}, "status) takes a status code"),
            ({"status": "503"}, "status) takes a status code"),
            ({"details": None}, "details) takes True, False or a callable"),
            ({"refuse": "POST"}, "refuse) takes methods as"),
            ({"refuse": ["PO ST"]}, "refuse) takes methods as"),
            ({"refuse": True}, "refuse) takes methods as"),
            ({"allow": "/login"}, "allow) takes a list of paths"),
            ({"allow": [b"/login"]}, "allow) takes a list of paths"),
            ({"allow": [re.compile(b"/login")]}, "allow) takes a list of paths"),
        ],
    )
    def test_a_setting_that_makes_no_sense_is_refused(
        self, lite: App, settings: dict[str, Any], message: str
    ) -> None:
        lite.start()
        with pytest.raises(ConfigurationError, match=re.escape(message)):
            self.middleware(None, lite.selector, **settings)

    def test_what_is_no_selector_is_refused(self, lite: App) -> None:
        for wrong in (lite.engine("rw"), None, "read-only.txt"):
            with pytest.raises(ConfigurationError, match="takes an EngineSelector"):
                self.middleware(None, wrong)

    def test_making_it_registers_nobody(self, lite: App) -> None:
        lite.start()
        self.middleware(None, lite.selector)  # as in a server's master, before it forks
        assert not Path(f"{lite.path}.workers").exists()

    def test_an_unknown_setting_is_refused(self, lite: App) -> None:
        lite.start()
        with pytest.raises(TypeError):
            self.middleware(None, lite.selector, detail=True)

    def test_patterns_are_globs_or_compiled_and_match_the_whole_path(self, lite: App) -> None:
        lite.start()
        allow = ["/a?c", re.compile("/x(/y)?")]
        site = self.middleware(None, lite.selector, refuse=["post"], allow=allow)._site
        allowed = [
            path
            for path in ("/abc", "/abcd", "/x", "/x/y", "/x/y/z", "/")
            if not site.may_refuse(Request("POST", path, "", ""))
        ]
        assert allowed == ["/abc", "/x", "/x/y"]

    def test_the_entries_are_read_once_a_second_and_the_mode_each_time(
        self, lite: App, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registry = Counting()
        lite.start(workers=registry)
        site = self.middleware(None, lite.selector)._site
        clock = [time.monotonic()]
        monkeypatch.setattr("sa_readonly.web.site.time", Clock(clock))

        def told() -> str:
            return site.page(Request("GET", PAGE, "", ""), details=False).body.decode()

        assert "mode: read-write" in told()
        clock[0] += 0.9
        told()
        assert registry.reads == 1
        clock[0] += 0.2
        told()
        assert registry.reads == 2
        lite.on()
        assert "mode: read-only" in told()
        assert registry.reads == 3  # they must have been read while this file was there
        told()
        assert registry.reads == 3

    def test_entries_that_were_read_while_the_file_changed_are_read_again(self, lite: App) -> None:
        class Changing(Counting):
            def read(self) -> list[Seen]:
                if self.reads < 100:
                    lite.flip()
                return super().read()

        registry = Changing()
        lite.start(workers=registry)
        site = self.middleware(None, lite.selector)._site
        site.page(Request("GET", PAGE, "", ""), details=False)
        reads, registry.reads = registry.reads, 100
        assert reads > 1
        site.page(Request("GET", PAGE, "", ""), details=False)
        assert registry.reads == 101

    def test_the_check_looks_however_young_the_answer_is(self, lite: App) -> None:
        lite.start(ttl=3600)
        site = self.middleware(None, lite.selector)._site
        asked = Request("GET", f"{PAGE}/check", "", "mode=read-write")
        assert site.page(asked, details=False).status == 200
        lite.on()
        assert site.page(asked, details=False).status == 503

    def test_it_touches_no_database(self, lite: App) -> None:
        lite.start()
        site = self.middleware(None, lite.selector)._site
        for path in (PAGE, f"{PAGE}/check"):
            for kind in (HTML, JSON, TEXT):
                site.page(Request("GET", path, kind, "mode=read-only"), details=True)
        assert lite.statements == []
        assert all(engine.pool.checkedin() == 0 for engine in lite.made)

    def test_without_a_directory_of_workers_it_tells_of_itself(self, lite: App) -> None:
        lite.start(workers=False)
        site = self.middleware(None, lite.selector)._site
        lite.on()
        text = site.page(Request("GET", PAGE, "", ""), details=True).body.decode()
        assert "registered: no\n" in text
        assert "problem: It has no directory of workers: nobody can wait for it.\n" in text
        assert f" pid {os.getpid()} on " in text
        assert text.endswith(": read-only, drained\nworkers: 0, noticed: 0, drained: 0\n")


class Clock:
    """The time module with another monotonic clock."""

    def __init__(self, now: list[float]) -> None:
        self.monotonic = lambda: now[0]
        self.time = time.time


class Cases:
    """The table. A module that collects it has a fixture ``site``."""

    @pytest.fixture
    def fresh(self, site: Site) -> Iterator[Site]:
        """The server, read-write, with nothing left over from another test."""
        for name in ("left", "asked"):
            (site.place / name).unlink(missing_ok=True)
        site.off()
        yield site
        site.off()

    # -- a refused write ---------------------------------------------------------------------

    def test_while_read_write_the_middleware_is_not_seen(self, fresh: Site) -> None:
        answer = fresh.ask()
        assert (answer.status, answer.text) == (200, "read from rw")
        assert "X-Read-Only" not in answer.headers
        assert fresh.ask("/write", "POST", body=b"12345").text == "saved 5"

    def test_a_read_carries_the_mode(self, fresh: Site) -> None:
        fresh.on()
        answer = fresh.ask()
        assert (answer.status, answer.text) == (200, "read from ro")
        assert answer.headers.get_all("X-Read-Only") == ["true"]

    def test_a_header_of_the_application_stays(self, fresh: Site) -> None:
        fresh.on()
        assert fresh.ask("/marked").headers.get_all("X-Read-Only") == ["mine"]

    @pytest.mark.parametrize("path", ["/write", "/started", "/lazy"])
    def test_a_refused_write_is_answered_and_nothing_is_saved(self, fresh: Site, path: str) -> None:
        before = fresh.saved
        fresh.on("Upgrade\nuntil: 2999-01-31T22:30:00+00:00")
        answer = fresh.ask(path, "POST", body=b"a=1")
        assert (answer.status, answer.kind) == (503, PROBLEM)
        assert answer.json == {
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "detail": "Not saved: the application is read-only. Try again later.",
            "read_only": True,
            "reason": "Upgrade",
            "until": "2999-01-31T22:30:00+00:00",
        }
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Vary"] == "Accept"
        assert answer.headers.get_all("X-Read-Only") == ["true"]
        assert answer.headers.get_all("Content-Length") == [str(len(answer.body))]
        assert int(answer.headers["Retry-After"]) > 10**9
        assert "X-Mine" not in answer.headers
        assert fresh.saved == before

    def test_a_500_that_the_application_made_of_a_refusal_is_replaced(self, fresh: Site) -> None:
        assert (fresh.ask("/made").status, fresh.ask("/made").text) == (200, "sorry")
        before = fresh.saved
        fresh.on()
        for method in ("POST", "HEAD"):
            answer = fresh.ask("/made", method, variant="status")
            assert (answer.status, answer.headers["Retry-After"]) == (409, "60")
            assert answer.headers.get_all("Content-Type") == [PROBLEM]
        assert b"sorry" not in fresh.ask("/made").body
        assert fresh.saved == before

    def test_the_status_code_can_be_set(self, fresh: Site) -> None:
        fresh.on()
        answer = fresh.ask("/write", "POST", variant="status")
        assert (answer.status, answer.json["status"], answer.json["title"]) == (
            409,
            409,
            "Conflict",
        )

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [
            (None, PROBLEM),
            ("*/*", PROBLEM),
            (BROWSER, HTML),
            ("text/html", HTML),
            ("application/json", PROBLEM),
            (PROBLEM, PROBLEM),
            ("application/json, text/plain, */*", PROBLEM),
            ("text/plain", TEXT),
            ("text/*", HTML),
            ("text/html;q=0.1, text/plain;q=0.9", TEXT),
            ("application/json;q=0, */*", HTML),
            ("application/json;q=0", HTML),
            ("image/png", PROBLEM),
            ("nonsense", PROBLEM),
            ("", PROBLEM),
            ("text/html;q=lots", PROBLEM),
            ("TEXT/HTML; Q=0.5", HTML),
        ],
    )
    def test_the_body_is_what_the_client_takes(
        self, fresh: Site, accept: str | None, kind: str
    ) -> None:
        fresh.on()
        answer = fresh.ask("/write", accept=accept)
        assert (answer.status, answer.kind) == (503, kind)

    def test_a_browser_is_told_that_it_was_not_saved(self, fresh: Site) -> None:
        fresh.on("Upgrade of 18\nuntil: 2999-01-31T23:30:00+01:00")
        answer = fresh.ask("/write", "POST", accept=BROWSER, body=b"a=1")
        page = Page(answer.text)
        assert "What you have just tried was not saved" in page.text
        assert "Upgrade of 18" in page.text
        assert "It is expected back at 2999-01-31 22:30 UTC." in page.text
        assert "refresh" not in answer.text  # it would post the form again

    @pytest.mark.parametrize("accept", [HTML, TEXT, PROBLEM])
    @pytest.mark.parametrize("path", ["/write", PAGE])
    def test_a_reason_is_text_wherever_it_is_shown(
        self, fresh: Site, accept: str, path: str
    ) -> None:
        fresh.on(NASTY)
        answer = fresh.ask(path, accept=accept.replace("problem+", ""))
        assert "Set-Cookie" not in answer.headers
        if accept == HTML:
            page = Page(answer.text)
            assert page.names.count("script") == (1 if path == PAGE else 0)
            assert "b" not in page.names
            assert "<script>alert(1)</script>" in page.text
            assert "\\x1b[31m\\u202e" in page.text
        elif accept == TEXT:
            (line,) = [one for one in answer.text.splitlines() if one.startswith("reason:")]
            assert "Set-Cookie: evil=1" in line
        else:
            assert "Set-Cookie: evil=1" in answer.json["reason"]
            assert answer.body.isascii()
        if accept != PROBLEM:
            assert "\x1b" not in answer.text
        assert answer.headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize("text", ["Upgrade", "Upgrade\nuntil: 2001-01-01T00:00:00Z", ""])
    def test_without_a_time_to_come_it_says_to_try_in_a_minute(
        self, fresh: Site, text: str
    ) -> None:
        fresh.on(text)
        for accept in (HTML, TEXT, JSON):
            answer = fresh.ask("/write", accept=accept)
            assert answer.headers["Retry-After"] == "60"
            assert "2001" not in answer.text

    def test_a_head_has_the_headers_and_no_body(self, fresh: Site) -> None:
        fresh.on()
        for path in ("/write", PAGE):
            asked, told = fresh.ask(path, "HEAD", accept=TEXT), fresh.ask(path, accept=TEXT)
            assert asked.status == told.status
            assert asked.body == b""
            for name in ("Content-Type", "Content-Length", "X-Read-Only", "Retry-After"):
                assert asked.headers[name] == told.headers[name]

    @pytest.mark.parametrize("path", ["/stream", "/written"])
    def test_a_stream_that_is_refused_in_the_middle_is_cut_off_and_logged(
        self, fresh: Site, path: str
    ) -> None:
        fresh.on()
        with pytest.raises(http.client.IncompleteRead) as caught:
            fresh.ask(path)
        assert caught.value.partial == b"first"
        assert fresh.logged("after the response had begun: the connection is closed")
        assert fresh.ask().status == 200

    def test_a_write_after_the_whole_response_is_logged(self, fresh: Site) -> None:
        fresh.on()
        with contextlib.suppress(http.client.IncompleteRead):
            assert fresh.ask("/closing").text == "whole"
        assert fresh.logged("after the response was complete: the client was not told")
        assert fresh.ask().status == 200

    def test_a_client_that_goes_away_ends_the_response(self, fresh: Site) -> None:
        fresh.on()
        with contextlib.closing(fresh.connect()) as connection:
            connection.request("GET", "/endless", headers={"X-Variant": ""})
            connection.getresponse().read(10)
        wait_until((fresh.place / "left").exists, "the end of the response")
        assert fresh.ask().status == 200

    def test_another_error_is_none_of_its_business(self, fresh: Site) -> None:
        fresh.on()
        answer = fresh.ask("/error")
        assert answer.status == 500
        assert answer.headers.get("Retry-After") is None

    # -- refusing beforehand -----------------------------------------------------------------

    def test_what_is_refused_beforehand_does_not_reach_the_application(self, fresh: Site) -> None:
        fresh.on()
        answer = fresh.ask("/write", "POST", variant="refuse", body=b"a=1")
        assert (answer.status, answer.json["reason"]) == (503, "Upgrade")
        assert not (fresh.place / "asked").exists()
        fresh.off()
        assert fresh.ask("/write", "POST", variant="refuse", body=b"a=1").text == "saved 3"

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/", 200),
            ("POST", "/", 503),
            ("DELETE", "/any", 503),
            ("POST", "/login", 200),
            ("POST", "/login/more", 503),
            ("POST", "/search/a/b", 200),
            ("POST", "/search", 503),
        ],
    )
    def test_only_these_methods_are_refused_and_not_where_they_are_allowed(
        self, fresh: Site, method: str, path: str, status: int
    ) -> None:
        fresh.on()
        assert fresh.ask(path, method, variant="refuse").status == status
        fresh.off()
        assert fresh.ask(path, method, variant="refuse").status == 200

    def test_a_big_form_is_answered_though_nobody_reads_it(self, fresh: Site) -> None:
        fresh.on()
        for _ in range(5):
            answer = fresh.ask("/write", "POST", variant="refuse", body=b"x" * 900_000)
            assert answer.status == 503

    def test_a_client_that_asks_first_is_not_told_to_go_on(self, fresh: Site) -> None:
        fresh.on()
        with socket.create_connection(("127.0.0.1", fresh.port), 20) as connection:
            connection.sendall(
                b"POST /write HTTP/1.1\r\nHost: a\r\nX-Variant: refuse\r\nContent-Length: 5\r\n"
                b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
            )
            lines = connection.makefile("rb").read().splitlines()
        # gunicorn tells every client to go on; none waits for the body that does not come
        assert [line for line in lines if line.startswith(b"HTTP/")][-1][8:13] == b" 503 "

    # -- the status page ---------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [(None, TEXT), ("*/*", TEXT), (BROWSER, HTML), (JSON, JSON), ("image/png", TEXT)],
    )
    def test_the_status_page_answers_in_both_modes(
        self, fresh: Site, accept: str | None, kind: str
    ) -> None:
        answer = fresh.ask(PAGE, accept=accept)
        assert (answer.status, answer.kind) == (200, kind)
        assert "read-write" in answer.text.lower()
        assert "X-Read-Only" not in answer.headers
        fresh.on("Upgrade")
        answer = fresh.ask(PAGE, accept=accept)
        assert (answer.status, answer.kind) == (200, kind)
        assert "read-only" in answer.text.lower()
        assert "Upgrade" in answer.text
        assert answer.headers["X-Read-Only"] == "true"
        assert answer.headers["Cache-Control"] == "no-store"

    def test_the_status_page_tells_anybody_the_mode_and_the_sums(self, fresh: Site) -> None:
        fresh.ask()
        fresh.on("Upgrade\nuntil: 2999-01-31T22:30:00+00:00")
        fresh.drain()
        lines = fresh.ask(PAGE).text.splitlines()
        assert lines[:3] == [
            "mode: read-only",
            "reason: Upgrade",
            "until: 2999-01-31T22:30:00+00:00",
        ]
        assert lines[3].startswith("generation: ")
        assert lines[4:] == ["workers: 1, noticed: 1, drained: 1"]
        told = fresh.ask(PAGE, accept=JSON).json
        assert told["sums"]["drained"] == 1
        assert told["registered"] is True
        assert told["asked"] is None
        assert not {"workers", "here", "problem"} & set(told)

    def test_the_json_tells_whom_it_answers_and_for_which_workers(self, fresh: Site) -> None:
        asked = [
            fresh.ask(f"{PAGE}?{query}", accept=JSON).json
            for query in ("asked=one1", "x=1&asked=two2", "asked=<b>", "asked=" + "x" * 65)
        ]
        assert [told["asked"] for told in asked] == ["one1", "two2", None, None]
        assert len({told["registry"] for told in asked}) == 1
        assert re.fullmatch("[0-9a-f]{12}", asked[0]["registry"])

    def test_the_lines_of_workers_are_for_those_who_may_see_them(self, fresh: Site) -> None:
        host = re.sub("[^A-Za-z0-9._-]", "_", socket.gethostname())
        fresh.ask()
        for accept in (TEXT, HTML, JSON):
            assert " pid " not in fresh.ask(PAGE, accept=accept).text
            assert host not in fresh.ask(PAGE, accept=accept, variant="operator").text
            for variant, more in (("details", {}), ("operator", {"X_Operator": "yes"})):
                assert host in fresh.ask(PAGE, accept=accept, variant=variant, **more).text
        fresh.on()
        fresh.drain()
        lines = fresh.ask(PAGE, variant="details").text.splitlines()
        keys = [line.partition(": ")[0] for line in lines]
        assert keys[-3:] == ["this process", "worker", "workers"]
        assert lines[-3].partition(": ")[2] == lines[-2].partition(": ")[2]
        told = fresh.ask(PAGE, accept=JSON, variant="details").json
        assert [one["pid"] for one in told["workers"]] == [told["here"]["pid"]]

    def test_the_status_page_answers_while_the_directory_of_workers_cannot_be_read(
        self, fresh: Site
    ) -> None:
        fresh.ask()
        workers = fresh.place / "read-only.txt.workers"
        workers.rename(fresh.place / "elsewhere")
        (file := fresh.place / "no directory").touch()

        def put() -> bool:  # the process makes its directory anew, whenever it misses it
            shutil.rmtree(workers, ignore_errors=True)
            with contextlib.suppress(IsADirectoryError):
                file.rename(workers)
            return not file.exists()

        wait_until(put, "the file to be in the place of the directory")
        try:
            fresh.on("Upgrade")  # another generation, so that nothing is answered from before
            told = wait_until(lambda: self.unregistered(fresh), "that it notices")
            assert "registered: no\nworkers: 1, noticed: 0, drained: 0\n" in told
            assert str(fresh.place) not in told
            page = Page(fresh.ask(PAGE, accept=HTML).text)
            assert "The process that answers is not registered." in page.text
            shown = fresh.ask(PAGE, variant="details").text
            assert f"problem: This process can't register in {workers}" in shown
            assert "this process: " in shown
        finally:
            workers.unlink()
            shutil.rmtree(fresh.place / "elsewhere")
        wait_until(lambda: not self.unregistered(fresh), "that it is registered again")

    def unregistered(self, site: Site) -> str | None:
        answer = site.ask(PAGE)
        assert answer.status == 200
        return answer.text if "registered: no" in answer.text else None

    def test_neither_an_url_nor_a_password_is_shown(self, fresh: Site) -> None:
        fresh.on()
        for path, accept in [(p, a) for p in ("/write", PAGE) for a in (HTML, JSON, TEXT)]:
            answer = fresh.ask(path, accept=accept, variant="details")
            shown = str(answer.headers) + answer.text
            for secret in ("hunter2", "sqlite", "rw.db", "INSERT", "insert into"):
                assert secret not in shown

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
    def test_the_status_page_takes_nothing(self, fresh: Site, method: str) -> None:
        for path in (PAGE, f"{PAGE}/check"):
            answer = fresh.ask(path, method, variant="refuse")
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")

    @pytest.mark.parametrize(
        ("query", "read_write", "read_only"),
        [
            ("mode=read-write", 200, 503),
            ("mode=read-only", 503, 200),
            ("mode=read-write&mode=read-only", 400, 400),
            ("mode=<script>", 400, 400),
            ("", 400, 400),
        ],
    )
    def test_the_check_answers_by_the_status_code(
        self, fresh: Site, query: str, read_write: int, read_only: int
    ) -> None:
        path = f"{PAGE}/check?{query}"
        answer = fresh.ask(path)
        assert answer.status == read_write
        if read_write != 400:
            assert answer.text == "mode: read-write\n"
        fresh.on()
        assert fresh.ask(path, "HEAD").status == read_only
        assert "<script>" not in fresh.ask(path).text

    def test_other_paths_are_the_applications(self, fresh: Site) -> None:
        for path in (f"{PAGE}s", f"{PAGE}/other", "/x" + PAGE):
            assert fresh.ask(path).text == "read from rw"
        assert fresh.ask(PAGE, variant="no page").text == "read from rw"

    def test_the_page_is_made_for_everybody_and_needs_nothing_from_elsewhere(
        self, fresh: Site
    ) -> None:
        fresh.on("Upgrade")
        fresh.drain()
        answer = fresh.ask(PAGE, accept=BROWSER, variant="details")
        page = Page(answer.text)
        assert ("html", {"lang": "en"}) in page.tags
        assert page.names.count("h1") == page.names.count("title") == page.names.count("main") == 1
        scopes = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
        assert scopes == ["col", "col", "col", "row"]
        assert "Read-only: nothing can be saved for the moment." in page.text
        cells = [text for text in page.shown if text.strip()]
        assert cells[cells.index("Worker") :][:3] == ["Worker", "Mode", "State"]
        assert cells[cells.index("Worker") :][4:6] == ["read-only", "drained"]
        assert not {"link", "img", "iframe", "form"} & set(page.names)
        assert not any(
            set(attributes) & {"src", "href", "style", "onclick", "onload"}
            for _, attributes in page.tags
        )
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
