"""uvicorn with several workers: the FastAPI example goes through the night of an upgrade."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
from typing import Any

import pytest

from tests.app import need, once
from tests.night import PATIENCE
from tests.postgres import Server, wait_until
from tests.test_wsgi_servers import Load, Site, night, site  # noqa: F401  # a fixture

WORKERS = 2  # each is started anew, and not forked
UVICORN = f"-m uvicorn app:app --port 0 --workers {WORKERS} --timeout-worker-healthcheck 60".split()
BOUND = r"Uvicorn running on http://127\.0\.0\.1:(\d+)"


class JsonLoad(Load):
    """The same load, in JSON."""

    def read(self) -> None:
        status, told = ask(self.port, "GET")
        if status != 200:
            self.failed.append(f"read: {status} {told}")
        else:
            self.workers.add(told["worker"])

    def write(self, name: str) -> None:
        status, told = ask(self.port, "POST", text=name)
        if (status, told) == (201, {"text": name}):
            self.accepted.add(name)
        elif (status, told) == (503, {"title": "Not saved", "detail": "upgrade"}):
            self.refused.add(name)
        else:
            self.failed.append(f"write: {status} {told}")


def ask(port: int, method: str, **body: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(method, "/", json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@once
@pytest.mark.parametrize("driver", ["asyncpg", pytest.param("psycopg", marks=once)])
def test_uvicorn_with_several_workers(
    site: Site,  # noqa: F811  # the fixture
    pg_server: Server,
    driver: str,
) -> None:
    need("uvicorn", "fastapi")
    site.example = "fastapi_app"
    site.operator.expect = site.commander.expect = WORKERS
    urls = {
        name: url.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)
        for name, url in (
            ("GUESTBOOK_RW_URL", site.pair.read_write),
            ("GUESTBOOK_RO_URL", site.pair.read_only),
        )
    }
    site.start([sys.executable, *UVICORN], BOUND, **urls)
    # It listens when the workers do.
    wait_until(
        lambda: site.log.read_text().count("startup complete") == WORKERS, "the workers", PATIENCE
    )
    night(site, pg_server, JsonLoad)
    log = site.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log
