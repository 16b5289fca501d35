"""Metrics: real scrapes of real servers, read by prometheus_client's own parser."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from sa_readonly import (
    ConfigurationError,
    EngineSelector,
    FileSwitch,
    FixedSwitch,
    Mode,
    ReadOnlyError,
)
from sa_readonly.refusals import KINDS
from sa_readonly.workers.protocol import Liveness, Registry, RegistryError, Seen
from sa_readonly.wsgi import ReadOnlyMiddleware
from tests.app import WHICH, App, need, once
from tests.postgres import wait_until
from tests.test_web_docs import ask, call
from tests.web_cases import Site, serving

pytest.importorskip(
    "prometheus_client",
    reason="NOT TESTED: prometheus_client is not installed. Cure: pip install prometheus_client.",
)

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sa_readonly.metrics import ReadOnlyCollector

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "metrics.md").read_text()
ONE, BESIDE, FASTAPI = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class Scrape:
    """What one scrape gave: each sample once, by its name and labels."""

    def __init__(self, text: str) -> None:
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self.samples, f"{key} comes twice"
                self.samples[key] = sample.value

    def several(self, name: str, **labels: str) -> dict[tuple[str, frozenset[Any]], float]:
        return {
            (found, has): value
            for (found, has), value in self.samples.items()
            if found == f"sa_readonly_{name}" and has >= set(labels.items())
        }

    def one(self, name: str, **labels: str) -> float | None:
        """The value of the one sample, or None if there is none."""
        values = list(self.several(name, **labels).values())
        assert len(values) <= 1, f"{name} is several"
        return values[0] if values else None

    def by(self, name: str, *labels: str) -> dict[Any, float]:
        """The sums by these labels, without those that are 0."""
        sums: Counter[Any] = Counter()
        for (_, has), value in self.several(name).items():
            key = tuple(dict(has)[label] for label in labels)
            sums[key[0] if len(key) == 1 else key] += value  # type: ignore[assignment]
        return {key: value for key, value in sums.items() if value}

    @property
    def names(self) -> dict[str, set[str]]:
        """The labels of each name."""
        found: dict[str, set[str]] = {}
        for name, labels in self.samples:
            found.setdefault(name, set()).update(label for label, _ in labels)
        return found


def scrape(*selectors: Any) -> Scrape:
    registry = CollectorRegistry()
    registry.register(ReadOnlyCollector(*selectors))
    return Scrape(generate_latest(registry).decode())


# -- several processes -----------------------------------------------------------------------

SHOP = """
import os
import time
from pathlib import Path

from prometheus_client import Counter
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import sessionmaker

from sa_readonly import EngineSelector, FileSwitch, ReadOnlyError, RoutingSession
from tests.app import WHICH, Book

PLACE = Path(os.environ["SA_TEST_PLACE"])
rw = create_engine(f"sqlite:///{PLACE}/rw.db")
selector = EngineSelector(
    FileSwitch(PLACE / "read-only.txt", ttl=0.02),
    read_write=rw,
    read_only=create_engine(f"sqlite:///{PLACE}/ro.db"),
)
Session = sessionmaker(selector, class_=RoutingSession)
requests = Counter("shop_requests", "Requests.")


def flush():
    with Session.begin() as session:
        session.add(Book(title="x"))


def statement():
    with Session.begin() as session:
        session.execute(insert(Book).values(title="x"))


def hold():
    with rw.connect() as connection:
        connection.scalar(WHICH)
        (PLACE / "held").touch()
        while not (PLACE / "release").exists():
            time.sleep(0.01)


WORK = {
    "/flush": flush,
    "/statement": statement,
    "/connection": lambda: rw.connect().close(),
    "/beforehand": selector.require_read_write,
    "/hold": hold,
}


def shop(environ, start_response):
    requests.inc()
    told = "done"
    try:
        WORK.get(environ["PATH_INFO"], lambda: None)()
    except ReadOnlyError:
        told = "refused"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [told.encode()]


"""
SERVED = """


def served(environ, start_response):
    mine = ("X-Pid", str(os.getpid()))
    return application(
        environ, lambda status, headers, *more: start_response(status, [*headers, mine], *more)
    )
"""
LOADED = ("flush", "statement", "connection", "beforehand")


class Shop:
    """The example of the docs in front of an application, under gunicorn."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.refused: Counter[tuple[str, str]] = Counter()  # by kind and pid, as clients were told

    def scrape(self) -> Scrape:
        return Scrape(self.site.ask("/metrics").text)

    def of_each(self, pids: set[str]) -> dict[str, Scrape]:
        """Scrape until each process was hit."""
        found: dict[str, Scrape] = {}

        def all_hit() -> bool:
            reply = self.site.ask("/metrics")
            found[str(reply.headers["X-Pid"])] = Scrape(reply.text)
            return set(found) >= pids

        wait_until(all_hit, "a scrape of each process")
        return found

    def until(self, condition: Callable[[Scrape], object], what: str) -> Scrape:
        wait_until(lambda: condition(self.scrape()), what)
        return self.scrape()

    def load(self, count: int) -> None:
        """Have clients try to write, and note what they were told."""

        def one(number: int) -> tuple[str, str]:
            kind = LOADED[number % len(LOADED)]
            reply = self.site.ask(f"/{kind}")
            assert reply.text == "refused"
            return kind, str(reply.headers["X-Pid"])

        with ThreadPoolExecutor(8) as clients:
            self.refused.update(clients.map(one, range(count)))


@contextlib.contextmanager
def serve(example: str, workers: int, options: str = "", **environment: str) -> Iterator[Shop]:
    more = {"GUNICORN_CMD_ARGS": f"--threads 4 {options}", **environment}
    source = SHOP + example + SERVED
    with serving("gunicorn-gthread", workers, source=source, **more) as site:
        made = Shop(site)
        made.until(lambda told: told.one("workers") == workers, "all workers")
        yield made


@once
def test_whoever_is_scraped_gives_the_sums_of_what_the_load_did() -> None:
    with serve(ONE, 4) as shop:
        gives_the_sums(shop, 4)


@once
def test_beside_the_multiprocess_mode_of_prometheus_client_too(tmp_path: Path) -> None:
    directory = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with serve(BESIDE, 2, "--preload", **directory) as shop:
        gives_the_sums(shop, 2)
        requests = shop.scrape().samples["shop_requests_total", frozenset()]
        assert requests == 1 + sum(shop.refused.values())  # and the first one, of the fixture


def gives_the_sums(shop: Shop, workers: int) -> None:
    told = shop.scrape()
    pids = {dict(has)["pid"] for _, has in told.several("flips_total")}
    assert len(pids) == workers
    # Zeros are told, so that an increase from none is seen.
    assert len(told.several("refused_writes_total")) == workers * len(KINDS)
    assert (told.by("refused_writes_total", "kind"), told.by("flips_total", "pid")) == ({}, {})
    assert (told.one("read_only"), told.one("registered")) == (0, 1)
    assert told.one("generation_info") is told.one("since_timestamp_seconds") is None

    before = time.time()
    shop.site.on("Upgrade\nuntil: 2999-01-01T00:00:00Z")
    shop.until(lambda told: told.one("workers_drained") == workers, "drained")
    shop.load(60)
    shop.until(lambda told: told.by("refused_writes_total", "kind", "pid") == shop.refused, "sums")
    for told in shop.of_each(pids).values():
        assert told.by("refused_writes_total", "kind", "pid") == shop.refused
        assert told.by("refused_writes_total", "kind") == dict.fromkeys(LOADED, 15)
        assert told.by("flips_total", "pid") == dict.fromkeys(pids, 1)
        assert told.one("read_only") == told.one("registered") == 1
        assert told.one("workers_noticed") == told.one("workers_drained") == workers
        assert told.one("workers_died") == 0
        assert told.one("generation_info", generation=FileSwitch(shop.site.file).identify()) == 1
        assert before - 1 < told.one("since_timestamp_seconds") < time.time() + 1
        assert told.one("until_timestamp_seconds") == 32472144000
        assert before - 60 < told.one("last_check_timestamp_seconds") <= time.time()
        assert told.by("connections", "state").get("retired") is None

    shop.until(lambda told: told.one("workers_unwatched") == 0, "the watchers")
    shop.site.off()
    told = shop.until(lambda told: told.one("workers_noticed") == workers, "read-write again")
    assert (told.one("read_only"), told.one("workers_drained")) == (0, 0)
    assert told.by("flips_total", "pid") == dict.fromkeys(pids, 2)
    assert told.by("refused_writes_total", "kind", "pid") == shop.refused

    # The counts of one that ends go, and the others' stay: no sum that seems to begin anew.
    gone = min(pids)
    os.kill(int(gone), signal.SIGTERM)
    kept = {key: count for key, count in shop.refused.items() if key[1] != gone}

    def replaced(told: Scrape) -> bool:
        return gone not in told.by("flips_total", "pid") and told.one("workers") == workers

    told = shop.until(replaced, "another worker")
    assert told.by("refused_writes_total", "kind", "pid") == kept


def test_a_connection_that_is_held_over_a_flip_is_told_until_it_is_closed() -> None:
    with serve(ONE, 2, "--preload") as shop:
        holding = threading.Thread(target=shop.site.ask, args=("/hold",))
        holding.start()
        try:
            wait_until((shop.site.place / "held").exists, "the connection")
            before = time.time()
            shop.site.on()
            told = shop.until(lambda told: told.one("workers_noticed") == 2, "both")
            assert told.one("workers_drained") == 1
            for state, number in (("in_use", 0), ("idle", 0), ("retired", 1)):
                found = told.one("connections", engine="read_write.primary", state=state)
                assert found == number, state
            assert before - 1 <= told.one("retired_since_timestamp_seconds") <= time.time()
        finally:
            (shop.site.place / "release").touch()
            holding.join(60)
        told = shop.until(lambda told: told.one("workers_drained") == 2, "drained")
        assert told.one("connections", engine="read_write.primary", state="retired") == 0
        assert told.one("retired_since_timestamp_seconds") is None


# -- one process -----------------------------------------------------------------------------


def refuse(app: App, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ReadOnlyError):
            app.selector.require_read_write()


def test_registering_it_looks_at_nothing_and_names_all_that_it_tells(lite: App) -> None:
    lite.start()
    registry = CollectorRegistry()
    collector = ReadOnlyCollector(lite.selector)
    registry.register(collector)  # as in a server's master, before it forks
    assert not Path(f"{lite.path}.workers").exists()
    described = [(one.name, one.type, one.documentation) for one in collector.describe()]
    assert described == [(one.name, one.type, one.documentation) for one in collector.collect()]
    assert Path(f"{lite.path}.workers").exists()
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(ReadOnlyCollector(lite.selector))


def test_a_request_that_the_middleware_refuses_is_counted(lite: App) -> None:
    lite.on()
    lite.start()
    application = ReadOnlyMiddleware(None, lite.selector, refuse=("POST",))
    assert call(application)[0] == "503 Service Unavailable"
    wait_until(
        lambda: scrape(lite.selector).by("refused_writes_total", "kind") == {"beforehand": 1},
        "the report",
    )


def test_a_process_without_a_directory_tells_of_itself(lite: App) -> None:
    lite.on()
    lite.start(workers=False)
    refuse(lite, 3)
    told = scrape(lite.selector)
    assert told.by("refused_writes_total", "kind", "pid") == {("beforehand", str(os.getpid())): 3}
    assert told.one("registered") is None
    assert (told.one("read_only"), told.one("workers")) == (1, 0)
    assert told.one("workers_unwatched") == 1


def test_a_switch_that_never_moves_tells_its_mode(lite: App) -> None:
    rw, ro = lite.engine("rw"), lite.engine("ro")
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=rw, read_only=ro) as selector:
        told = scrape(selector)
        assert told.one("read_only", switch="FixedSwitch") == 1
        assert told.one("registered") is told.one("last_check_timestamp_seconds") is None


def test_who_cant_read_the_directory_tells_of_itself_and_that(lite: App) -> None:
    Path(f"{lite.path}.workers").touch()  # a file stands where it should be
    lite.on()
    lite.start()
    refuse(lite)
    told = scrape(lite.selector)
    assert (told.one("registered"), told.one("workers"), told.one("read_only")) == (0, 0, 1)
    assert told.by("refused_writes_total", "kind", "pid") == {("beforehand", str(os.getpid())): 1}
    Path(f"{lite.path}.workers").unlink()
    told = scrape(lite.selector)
    assert (told.one("registered"), told.one("workers")) == (1, 1)
    assert told.by("refused_writes_total", "kind", "pid") == {("beforehand", str(os.getpid())): 1}


def test_a_forced_process_is_told_as_such(lite: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA_READONLY_FORCE", "read-write")
    lite.on()
    lite.start()
    told = scrape(lite.selector)
    assert told.one("read_only") == 0
    assert told.by("workers_forced", "mode") == {"read-write": 1}
    assert told.one("last_check_timestamp_seconds") is None  # nobody looks


class Shared(Registry):
    """A registry in which processes of other hosts are, too."""

    def __init__(self, *seen: Seen) -> None:
        self.seen = seen

    def register(self, _identify: Any) -> Any:
        raise RegistryError("It is for reading only.")

    def sweep(self, _identify: Any) -> None: ...

    def read(self) -> list[Seen]:
        return list(self.seen)


def test_what_other_hosts_tell_themselves_is_not_counted_twice(lite: App) -> None:
    lite.on()
    lite.start(workers=False)
    refuse(lite)
    here = replace(lite.selector.report(), pid=1, problem=None)
    lite.selector.close()
    seen = (
        here,
        replace(here, pid=2, host="elsewhere"),
        replace(here, pid=3, host="elsewhere", liveness=Liveness.UNKNOWN, doubt="another host"),
        replace(here, pid=4, liveness=Liveness.UNKNOWN, doubt="another namespace"),
        replace(here, pid=5, liveness=Liveness.DEAD),
        replace(here, pid=6, host="elsewhere", liveness=Liveness.DEAD),
        replace(here, name="7", pid=7, liveness=Liveness.DEAD, at_rest=True),  # it left nothing
    )
    lite.start(workers=Shared(*seen))
    told = scrape(lite.selector)
    assert (told.one("workers"), told.one("workers_died")) == (1, 1)
    refused = told.several("refused_writes_total")
    assert {dict(has)["pid"] for _, has in refused} == {"1", str(os.getpid())}
    assert told.by("refused_writes_total", "pid") == {"1": 1}


def test_several_selectors_are_told_apart_by_their_switch(lite: App) -> None:
    lite.start()
    path = lite.path.with_name('other\n"file".txt')
    path.touch()
    engines = {"read_write": lite.engine("rw"), "read_only": lite.engine("ro")}
    with EngineSelector(path, **engines, watch=False) as other:
        told = scrape(lite.selector, other)
        assert told.one("read_only", switch=str(lite.path)) == 0
        assert told.one("read_only", switch=str(path).replace("\n", "\\n")) == 1


def test_selectors_that_share_a_switch_count_once(lite: App) -> None:
    lite.start()
    engines = {"read_write": lite.engine("rw"), "read_only": lite.engine("ro")}
    with EngineSelector(lite.selector.switch, **engines, watch=False) as other:
        assert scrape(lite.selector, other).one("workers") == 1
    with EngineSelector(lite.path, **engines, watch=False) as another:
        message = f"whose switches are both {lite.path}. Make one switch"
        with pytest.raises(ConfigurationError, match=re.escape(message)):
            ReadOnlyCollector(lite.selector, another)


@pytest.mark.parametrize("wrong", [None, "read-only.txt", 7])
def test_what_is_no_selector_is_refused(wrong: Any) -> None:
    message = f"plugin=sa_readonly, not {type(wrong).__name__}."
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        ReadOnlyCollector(wrong)
    with pytest.raises(ConfigurationError, match="takes an EngineSelector, or several"):
        ReadOnlyCollector()


async def scraped_on_its_loop(app: App) -> Scrape:
    urls = [url.set(drivername="sqlite+aiosqlite") for url in app.urls.values()]
    rw, ro = map(create_async_engine, urls)
    async with EngineSelector(app.path, read_write=rw, read_only=ro) as selector:
        async with rw.connect() as connection:
            assert await connection.scalar(WHICH) == "rw"
            app.on()
            told = scrape(selector)  # as prometheus_client.make_asgi_app() does
        await rw.dispose()
        await ro.dispose()
        return told


def test_an_async_application_can_be_scraped_on_its_loop(lite: App) -> None:
    need("aiosqlite")
    told = asyncio.run(scraped_on_its_loop(lite))
    assert told.one("connections", engine="read_write.primary", state="retired") == 1
    assert (told.one("workers"), told.one("workers_noticed")) == (1, 1)


def test_the_fastapi_example_answers(lite: App) -> None:
    need("fastapi", "httpx")
    lite.start()
    names: dict[str, Any] = {"selector": lite.selector}
    exec(FASTAPI, names)  # our own text
    try:
        answer = ask(names["api"], "/metrics", "GET")
        assert Scrape(answer.text).one("workers") == 1
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
    finally:
        registry = names["REGISTRY"]
        registry.unregister(registry._names_to_collectors["sa_readonly_read_only"])


def test_importing_the_package_does_not_import_prometheus_client() -> None:
    code = "import sys, sa_readonly; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
