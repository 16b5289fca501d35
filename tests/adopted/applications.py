"""Published applications of others go through a night with the changes of docs/adopting.md.

Their source distributions are no part of this repository: `tox -e apps` downloads those that
sdists.txt pins. The name of this file keeps it out of a run of all tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.night import PATIENCE, Operator
from tests.postgres import Pair
from tests.test_wsgi_servers import GUNICORN, LISTENING, Site, execute

PAGE = (Path(__file__).parents[2] / "docs" / "adopting.md").read_text()
SDISTS = Path(os.environ["SA_READONLY_SDISTS"])
UVICORN = [sys.executable, "-m", "uvicorn", "--port", "0"]
BOUND = r"Uvicorn running on http://127\.0\.0\.1:(\d+)"


def changes(sdist: str) -> dict[str, list[str]]:
    """The hunks that the page shows for an application, by the file's path."""
    found = {}
    for block in re.findall(r"^```diff\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        for one in re.split(r"^--- ", block, flags=re.MULTILINE)[1:]:
            name, _, hunks = one.partition("\n")
            if name.startswith(sdist):
                found[name] = hunks.split("@@\n")[1:]
    assert found, f"docs/adopting.md shows no change of {sdist}"
    return found


def changed(text: str, hunk: str) -> str:
    """The text with the lines of one hunk in the place of those that it takes away."""
    lines = hunk.splitlines(keepends=True)
    old, new = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
    assert f"\n{text}".count(f"\n{old}") == 1, f"these lines are not there, or not once:\n{old}"
    return f"\n{text}".replace(f"\n{old}", f"\n{new}")[1:]


@dataclass
class Adopted:
    """An application with its changes, a database and a server of its own."""

    site: Site
    command: list[str]
    bound: str
    client: httpx.Client

    def start(self) -> None:
        """Start its server, anew if it runs; the client keeps its cookies and headers."""
        self.site.stop()
        self.site.start(self.command, self.bound)
        self.client.base_url = f"http://127.0.0.1:{self.site.port}"

    def night(self) -> Iterator[None]:
        """Its server stands read-only: as it was when the file came, and then started anew."""
        self.site.operator.on()
        yield
        assert "Traceback" not in self.site.log.read_text()
        self.start()
        yield
        self.site.operator.off()

    def does(self, method: str, path: str, status: int, **content: Any) -> httpx.Response:
        answer = self.client.request(method, path, **content)
        assert answer.status_code == status, f"{answer.text}\n{self.site.log.read_text()}"
        return answer

    def refuses(self, method: str, path: str, **content: Any) -> None:
        assert "retry-after" in self.does(method, path, 503, **content).headers

    def rows(self, query: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in execute(self.site.pair.read_write, query)]


Adopt = Callable[..., Adopted]


@pytest.fixture
def adopt(pg_pair: Pair, place: Path) -> Iterator[Adopt]:
    """Unpacks an application and changes it as the page says; its server ends with the test."""
    with contextlib.ExitStack() as stack:

        def adopted(folder: str, driver: str, command: list[str], bound: str) -> Adopted:
            sdist = folder.partition("/")[0]
            with tarfile.open(SDISTS / f"{sdist}.tar.gz") as archive:
                archive.extractall(place, filter="data")
            for name, hunks in changes(sdist).items():
                text = (place / name).read_text()
                for hunk in hunks:
                    text = changed(text, hunk)
                (place / name).write_text(text)
            url = pg_pair.read_write.set(drivername=f"postgresql+{driver}")
            environment = {
                **os.environ,
                "DATABASE_URL": url.render_as_string(hide_password=False),
                "SA_READONLY_FILE": str(place / "read-only.txt"),
            }
            operator = Operator(place / "read-only.txt", 1)
            site = Site(pg_pair, operator, operator, place / "server.log", environment)
            site.example = str(place / folder)
            stack.callback(site.stop)
            client = stack.enter_context(httpx.Client(timeout=PATIENCE))
            return Adopted(site, command, bound, client)

        yield adopted


def test_flaskr_of_flask_sqlalchemy(adopt: Adopt) -> None:
    gunicorn = [word.replace("app:app", "flaskr:create_app()") for word in GUNICORN]
    app = adopt("Flask-SQLAlchemy-2.5.1/examples/flaskr", "psycopg2", gunicorn, LISTENING)
    subprocess.run(
        [sys.executable, "-m", "flask", "--app", "flaskr", "init-db"],
        cwd=app.site.example,
        env=app.site.environment,
        check=True,
    )
    me = {"username": "me", "password": "secret"}
    app.start()
    app.does("POST", "/auth/register", 302, data=me)
    app.does("POST", "/auth/login", 302, data=me)
    app.does("POST", "/create", 302, data={"title": "dusk", "body": ""})
    for _ in app.night():
        page = app.does("GET", "/", 200)
        assert "dusk" in page.text
        assert page.headers["x-read-only"] == "true"
        app.does("GET", "/1/update", 200)
        app.does("POST", "/auth/login", 302, data=me)  # it only reads
        app.refuses("POST", "/create", data={"title": "night", "body": ""})
        app.refuses("POST", "/1/update", data={"title": "night", "body": ""})
        app.refuses("POST", "/1/delete")
        app.refuses("POST", "/auth/register", data={**me, "username": "you"})
    app.does("POST", "/create", 302, data={"title": "dawn", "body": ""})
    assert app.rows("SELECT title FROM post ORDER BY id") == [("dusk",), ("dawn",)]
    assert app.rows('SELECT username FROM "user"') == [("me",)]


def test_the_fastapi_application_of_fastapi_users_with_asyncpg(adopt: Adopt) -> None:
    folder = "fastapi_users-15.0.1/examples/sqlalchemy"
    app = adopt(folder, "asyncpg", [*UVICORN, "app.app:app"], BOUND)

    def user(name: str) -> dict[str, str]:
        return {"email": f"{name}@example.com", "password": "secret"}

    app.start()
    app.does("POST", "/auth/register", 201, json=user("dusk"))
    login = {"username": "dusk@example.com", "password": "secret"}
    token = app.does("POST", "/auth/jwt/login", 200, data=login).json()["access_token"]
    app.client.headers["Authorization"] = f"Bearer {token}"
    for _ in app.night():
        app.does("POST", "/auth/jwt/login", 200, data=login)  # it only reads
        told = app.does("GET", "/authenticated-route", 200)
        assert told.json() == {"message": "Hello dusk@example.com!"}
        assert told.headers["x-read-only"] == "true"
        app.refuses("POST", "/auth/register", json=user("night"))
        app.refuses("PATCH", "/users/me", json={"email": "night@example.com"})
    app.does("PATCH", "/users/me", 200, json={"email": "dawn@example.com"})
    app.does("POST", "/auth/register", 201, json=user("day"))
    assert app.rows('SELECT email FROM "user" ORDER BY email') == [
        ("dawn@example.com",),
        ("day@example.com",),
    ]


@pytest.mark.parametrize("refuse", [True, False], ids=["refuse", "without refuse"])
def test_the_litestar_application_of_advanced_alchemy(adopt: Adopt, refuse: bool) -> None:
    folder = "advanced_alchemy-1.12.0/examples/litestar"
    app = adopt(folder, "asyncpg", [*UVICORN, "litestar_service:app"], BOUND)
    if not refuse:  # the engine refuses by itself; its error is no more than a 500 to Litestar
        code = Path(app.site.example, "litestar_service.py")
        code.write_text(
            re.sub(r"(ReadOnlyMiddleware\(app, selector), refuse=.*", r"\1)", code.read_text())
        )
    app.start()
    dusk = app.does("POST", "/authors", 201, json={"name": "dusk"}).json()["id"]
    for _ in app.night():
        authors = app.does("GET", "/authors", 200).json()
        assert [author["name"] for author in authors["items"]] == ["dusk"]
        assert app.does("GET", f"/authors/{dusk}", 200).headers["x-read-only"] == "true"
        for method, path in (
            ("POST", "/authors"),
            ("PATCH", f"/authors/{dusk}"),
            ("DELETE", f"/authors/{dusk}"),
        ):
            if refuse:
                app.refuses(method, path, json={"name": "night"})
            else:
                assert app.client.request(method, path, json={"name": "night"}).is_server_error
    app.does("POST", "/authors", 201, json={"name": "dawn"})
    app.does("PATCH", f"/authors/{dusk}", 200, json={"name": "day"})
    assert app.rows("SELECT name FROM author ORDER BY name") == [("dawn",), ("day",)]
