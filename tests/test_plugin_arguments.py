"""The arguments of an engine by URL: where they may stand, and what is refused when it is made."""

from __future__ import annotations

import asyncio
import pickle
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, engine_from_config, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import SingletonThreadPool

from sa_readonly import (
    ConfigurationError,
    Engines,
    EngineSelector,
    FixedSwitch,
    Mode,
    ReadOnlyError,
)
from sa_readonly.engines.single import Single, of_engine
from sa_readonly.oneswitch import of_key
from tests.by_url import nothing_lingers
from tests.etcd import certificates

__all__ = ["nothing_lingers"]


def url_of(place: Path, **query: str) -> URL:
    file = {"sa_readonly_file": f"{place}/read-only.txt"}
    return make_url(f"sqlite:///{place}/one.db").update_query_dict(
        {"plugin": "sa_readonly", **file, **query}
    )


def single(engine: Any) -> Single:
    found = of_engine(engine)
    assert found is not None
    return found


REFUSED = [
    ({"sa_readonly_fil": "x"}, "Unknown to the plugin sa_readonly: sa_readonly_fil."),
    ({"sa_readonly_file": ""}, "sa_readonly_file, or set SA_READONLY_FILE"),
    ({"sa_readonly_file": "/nowhere/at/all.txt"}, "The directory /nowhere/at of the file"),
    ({"sa_readonly_etcd": "http://127.0.0.1:1"}, "sa_readonly_etcd and sa_readonly_key need"),
    ({"sa_readonly_etcd": "http://127.0.0.1:1", "sa_readonly_key": "a"}, "slash"),
    ({"sa_readonly_reads": "both"}, "sa_readonly_reads takes"),
    ({"sa_readonly_grace": "-1"}, "sa_readonly_grace takes a number of seconds"),
    ({"sa_readonly_grace": "soon"}, "sa_readonly_grace takes a number of seconds"),
    ({"sa_readonly_workers": "requird"}, "^sa_readonly_workers='requird' is no known word"),
    ({"sa_readonly_url": "no URL"}, "sa_readonly_url is no URL"),
    ({"sa_readonly_url": "sqlite+aiosqlite:///other.db"}, "of the same dialect and driver"),
    ({"sa_readonly_url": "sqlite:///other.db?plugin=sa_readonly"}, "names a plugin"),
    ({"sa_readonly_url": "sqlite://"}, "in memory"),
    ({"sa_readonly_ca": "/ca.pem"}, "sa_readonly_ca is of etcd, and without it a file alone"),
]


@pytest.mark.parametrize(("query", "message"), REFUSED, ids=[str(one[0]) for one in REFUSED])
def test_what_makes_no_sense_is_an_error_when_the_engine_is_made(
    place: Path, query: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_engine(url_of(place, **query))
    given: dict[str, Any] = {"sa_readonly_file": f"{place}/read-only.txt", **query}
    with pytest.raises(ConfigurationError, match=message):
        create_engine(f"sqlite:///{place}/one.db", plugins=["sa_readonly"], **given)


@pytest.mark.parametrize(
    ("name", "wrong"), [("grace", True), ("grace", b"1"), ("workers", None), ("file", 5)]
)
def test_a_keyword_takes_no_more_than_the_argument_of_a_selector(
    place: Path, name: str, wrong: object
) -> None:
    given: dict[str, Any] = {"sa_readonly_file": f"{place}/read-only.txt"}
    given[f"sa_readonly_{name}"] = wrong
    with pytest.raises(ConfigurationError, match=f"^sa_readonly_{name} takes .* not {wrong!r}"):
        create_engine(f"sqlite:///{place}/one.db", plugins=["sa_readonly"], **given)


def test_the_pool_of_another_one_is_refused(place: Path) -> None:
    engine = create_engine(url_of(place))
    with pytest.raises(ConfigurationError, match="pool= is of another engine"):
        create_engine(url_of(place), pool=engine.pool)


def test_engines_of_one_key_are_given_one_file_of_their_host_or_none(place: Path) -> None:
    asked = ("http://127.0.0.1:1", "/shop/read-only", False)
    kept = of_key(*asked, file=f"{place}/read-only.txt")
    for other in (None, f"{place}/other.txt"):
        with pytest.raises(ConfigurationError, match=r"^sa_readonly_file=.* differs from "):
            of_key(*asked, file=other)
    assert of_key(*asked, file=f"{place}/read-only.txt") is kept


def test_a_pool_that_has_given_out_connections_is_refused(place: Path) -> None:
    plain = create_engine(f"sqlite:///{place}/one.db")
    with plain.connect(), pytest.raises(ConfigurationError, match="pool= has given out"):
        create_engine(url_of(place), pool=plain.pool)
    create_engine(url_of(place), pool=plain.pool)
    keeping = create_engine(f"sqlite:///{place}/one.db", poolclass=SingletonThreadPool)
    keeping.connect().close()
    with pytest.raises(ConfigurationError, match="pool= has given out"):
        create_engine(url_of(place), pool=keeping.pool)
    keeping.dispose()


def test_a_database_in_memory_is_refused(place: Path) -> None:
    with pytest.raises(ConfigurationError, match="a database in memory"):
        create_engine(url_of(place).set(database=":memory:"))


def test_a_password_for_both_databases_is_refused(place: Path) -> None:
    url = url_of(place, sa_readonly_url=f"sqlite:///{place}/two.db")
    for name in ("password", "passwd"):
        with pytest.raises(ConfigurationError, match="connect_args has a password"):
            create_engine(url, connect_args={name: "secret"})
    with pytest.raises(ConfigurationError, match="beside creator="):
        create_engine(url, creator=lambda: None)


def test_what_would_lead_both_urls_to_one_database_is_refused(place: Path) -> None:
    url = make_url("postgresql+psycopg2://shop@db/shop").update_query_dict(
        {
            "plugin": "sa_readonly",
            "sa_readonly_file": f"{place}/read-only.txt",
            "sa_readonly_url": "postgresql+psycopg2://shop@standby/shop",
        }
    )
    with pytest.raises(ConfigurationError, match="connect_args has 'host', in which"):
        create_engine(url, connect_args={"connect_timeout": 3, "host": "db.example"})
    create_engine(url, connect_args={"connect_timeout": 3, "dbname": "other"})


def test_a_password_of_the_other_database_is_not_shown_in_the_engines_url(place: Path) -> None:
    def made(other: str | URL) -> URL:
        return create_engine(
            "postgresql+psycopg2://shop@db/shop",
            plugins=["sa_readonly"],
            sa_readonly_file=f"{place}/read-only.txt",
            sa_readonly_url=other,
        ).url

    assert "secret" not in str(made("postgresql+psycopg2://shop:secret@standby/shop"))
    other = "postgresql+psycopg2://shop@standby/shop"
    assert made(other).query["sa_readonly_url"] == other
    assert "secret" not in str(made(make_url(other).set(password="secret")))
    assert made(make_url(other)).query["sa_readonly_url"] == other


def test_both_databases_are_connected_to_by_the_same_arguments_and_listeners(place: Path) -> None:
    url = url_of(place, sa_readonly_url=f"sqlite:///{place}/two.db", sa_readonly_workers="false")
    engine = create_engine(url, connect_args={"timeout": 3})
    heard: list[Any] = []
    own = sqlite3.connect(f"{place}/own.db")

    @event.listens_for(engine, "do_connect")
    def connect(_: object, __: object, arguments: list[Any], parameters: dict[str, Any]) -> Any:
        heard.append((Path(arguments[0]).name, parameters["timeout"]))
        return own if len(heard) == 3 else None

    engine.connect().close()
    Path(f"{place}/read-only.txt").touch()
    single(engine).shared.switch.check()
    engine.connect().close()
    engine.dispose()
    raw = engine.raw_connection()
    assert raw.driver_connection is own
    assert heard == [("one.db", 3), ("two.db", 3), ("two.db", 3)]


def test_the_file_may_stand_in_the_environment(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{place}/one.db?plugin=sa_readonly"
    with pytest.raises(ConfigurationError, match="set SA_READONLY_FILE in the environment"):
        create_engine(url)
    monkeypatch.setenv("SA_READONLY_FILE", f"{place}/read-only.txt")
    assert single(create_engine(url)).shared.path == f"{place}/read-only.txt"


def test_in_the_url_by_keyword_and_in_a_configuration_it_is_the_same(place: Path) -> None:
    plain, file = f"sqlite:///{place}/one.db", f"{place}/read-only.txt"
    by_url = create_engine(url_of(place, sa_readonly_grace="3"))
    by_keyword = create_engine(
        plain, plugins=["sa_readonly"], sa_readonly_file=Path(file), sa_readonly_grace=3
    )
    twice = create_engine(url_of(place, sa_readonly_grace="3"), plugins=["sa_readonly"])
    configured = engine_from_config({"a.url": str(url_of(place)), "a.sa_readonly_grace": "3"}, "a.")
    engines = [by_url, by_keyword, twice, configured]
    assert {single(engine).shared for engine in engines} == {single(by_url).shared}
    assert {single(engine).grace for engine in engines} == {3.0}
    with pytest.raises(ConfigurationError, match="by keyword, with another value"):
        create_engine(url_of(place, sa_readonly_grace="3"), sa_readonly_grace="4")


def test_an_engines_url_is_taken_with_the_keywords_that_the_engine_was_made_with(
    place: Path,
) -> None:
    given = {
        "sa_readonly_file": place / "read-only.txt",
        "sa_readonly_url": make_url(f"sqlite:///{place}/other.db"),
        "sa_readonly_grace": 3,
    }
    made = create_engine(f"sqlite:///{place}/one.db", plugins=["sa_readonly"], **given)
    assert create_engine(made.url, **given).url == made.url


def test_what_is_made_of_an_engines_url_is_guarded_too(place: Path) -> None:
    file = f"{place}/read-only.txt"
    plain = f"sqlite:///{place}/one.db"
    engine = create_engine(plain, plugins=["sa_readonly"], sa_readonly_file=file)
    again = create_engine(pickle.loads(pickle.dumps(engine.url)))
    assert again.url == engine.url == url_of(place)
    assert single(again).shared is single(engine).shared


@pytest.mark.parametrize("line", [1, 2, 3])
def test_another_thread_may_ask_for_the_url_while_it_is_made(place: Path, line: int) -> None:
    engine = create_engine(url_of(place))
    asked: Any = Single.url.fget  # type: ignore[attr-defined]  # a property
    lines: list[int] = []
    others: list[URL] = []

    def come_between(frame: Any, kind: str, _: object) -> Any:
        if frame.f_code is asked.__code__ and kind == "line":
            lines.append(frame.f_lineno)
            if len(lines) == line:
                others.append(engine.url)  # which is not traced
        return come_between

    before = sys.gettrace()
    sys.settrace(come_between)
    try:
        url = engine.url
    finally:
        sys.settrace(before)
    assert [url] == others


def test_a_relative_path_is_absolute_in_the_url_of_its_engine(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    relative = {"sa_readonly_file": "read-only.txt", "sa_readonly_workers": "./workers"}
    by_url = create_engine(url_of(place, **relative))
    by_keyword = create_engine(f"sqlite:///{place}/one.db", plugins=["sa_readonly"], **relative)
    monkeypatch.chdir("/")
    wanted = url_of(place, sa_readonly_workers=f"{place}/workers")
    assert by_url.url == by_keyword.url == wanted
    assert single(create_engine(by_url.url)).shared is single(by_url).shared


def test_the_members_of_etcd_may_be_a_list(place: Path) -> None:
    members = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    engine = create_engine(
        f"sqlite:///{place}/one.db",
        plugins=["sa_readonly"],
        sa_readonly_etcd=members,
        sa_readonly_key="/shop",
    )
    assert engine.url.query["sa_readonly_etcd"] == ",".join(members)
    assert single(create_engine(engine.url)).shared is single(engine).shared


def test_engines_of_one_key_share_a_switch_or_are_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with certificates() as made:
        for name in ("a.pem", "b.pem"):
            shutil.copy(made.ca, f"{place}/{name}")

    def of_key(urls: str = "https://etcd1:2379,https://etcd2:2379", **given: str) -> Any:
        query = {f"sa_readonly_{name}": value for name, value in given.items()}
        plain = make_url(f"sqlite:///{place}/one.db?plugin=sa_readonly&sa_readonly_key=/shop")
        return create_engine(plain.update_query_dict({"sa_readonly_etcd": urls, **query}))

    engine = of_key(ca=f"{place}/a.pem")
    monkeypatch.setenv("SA_READONLY_ETCD_CA", f"{place}/a.pem")
    again = of_key("https://etcd2,https://etcd1:2379/")
    assert single(again).shared is single(engine).shared
    for name in ("ca", "file"):
        with pytest.raises(ConfigurationError, match=f"sa_readonly_{name}=.* differs from"):
            of_key(**{name: f"{place}/b.pem"})
    with pytest.raises(ConfigurationError, match="can't be read"):
        of_key(cert=f"{place}/none.pem")


def test_another_engine_of_the_file_must_agree_about_the_workers(place: Path) -> None:
    engine = create_engine(url_of(place))
    with pytest.raises(ConfigurationError, match="sa_readonly_workers=False differs from True"):
        create_engine(url_of(place, sa_readonly_workers="false"))
    assert of_engine(engine)


def test_a_selector_takes_no_engine_by_url(place: Path) -> None:
    engine, plain = create_engine(url_of(place)), create_engine(f"sqlite:///{place}/two.db")
    for read_write, read_only in ((engine, plain), (plain, engine)):
        with pytest.raises(ConfigurationError, match="gives out connections by the mode itself"):
            EngineSelector(
                FixedSwitch(Mode.READ_WRITE), read_write=Engines(read_write), read_only=read_only
            )


def test_an_async_engine_is_served(place: Path) -> None:
    engine = create_async_engine(url_of(place).set(drivername="sqlite+aiosqlite"))

    async def go() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("create table thing (name)"))
            Path(f"{place}/read-only.txt").touch()
            await connection.execute(text("insert into thing values ('before')"))
        single(engine.sync_engine).shared.switch.check()
        async with engine.connect() as connection:
            assert await connection.scalar(text("select name from thing")) == "before"
            with pytest.raises(ReadOnlyError):
                await connection.execute(text("insert into thing values ('after')"))
        await engine.dispose()

    asyncio.run(go())
