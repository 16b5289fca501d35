"""An application on two databases, of which each can tell which one it is."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, sessionmaker
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.schema import ForeignKey

from sa_readonly import EngineSelector, FileSwitch, RoutingSession, mode
from tests.postgres import Server, fresh_pair

# .ci/run asks for more of the same, once: longer loads, more flips.
LONG = os.environ.get("SA_READONLY_LONG") == "1"
once = pytest.mark.once
longer = pytest.mark.longer
# SQLAlchemy's, for what an older one that is supported does otherwise: (2, 0, 40)
RELEASE = tuple(map(int, re.findall(r"\d+", sqlalchemy.__version__)[:3]))
SECONDS = 60.0  # for a thread to end; none takes that long unless it hangs


# Of modules that are called otherwise.
PACKAGES = {
    "xdist": "pytest-xdist",
    "mysql": "mysql-connector-python",
    "MySQLdb": "mysqlclient",
    "sqlcipher3": "sqlcipher3-binary",
}


def need(*modules: str) -> None:
    """Skip a test out loud where one of the modules is not installed."""
    for module in modules:
        if find_spec(module) is None:
            package = PACKAGES.get(module, module)
            pytest.skip(f"NOT TESTED: {module} is not installed. Cure: pip install {package}.")


def opened() -> list[str]:
    """Return what the descriptors of this process lead to, where the system tells."""
    folder, found = "/proc/self/fd", []
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        with contextlib.suppress(FileNotFoundError):  # it is closed by now, as that of the listing
            found.append(os.readlink(f"{folder}/{name}"))
    return found


def in_thread(function: Callable[[], object]) -> None:
    """Run it in another thread, to its end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001  # raised below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive()
    for error in errors:
        raise error


class Base(DeclarativeBase):
    pass


class Which(Base):
    """One row: the name of the database."""

    __tablename__ = "which"

    name: Mapped[str] = mapped_column(primary_key=True)


class Author(Base):
    __tablename__ = "author"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list[Book]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author | None] = relationship(back_populates="books")


WHICH = select(Which.name)


@dataclass
class App:
    """What a test needs: engines, a selector, a session factory and the file."""

    path: Path
    urls: dict[str, URL]
    engines: dict[str, Engine] = field(default_factory=dict)
    made: list[Engine] = field(default_factory=list)  # also one whose name another has by now
    statements: list[tuple[str, str]] = field(default_factory=list)
    selector: Any = None
    sessions: Any = None

    def engine(self, name: str, **options: Any) -> Engine:
        options.setdefault("poolclass", QueuePool)
        engine = self.engines[name] = self.make_engine(self.urls[name], **options)
        self.made.append(engine)

        @event.listens_for(engine, "before_cursor_execute")
        def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            self.statements.append((name, statement))

        return engine

    @staticmethod
    def make_engine(url: URL, **options: Any) -> Engine:
        return create_engine(url, **options)

    def start(self, *, ttl: float = 0.0, **options: Any) -> App:
        """Make the selector, by default of both databases, one that looks each time."""
        switch = FileSwitch(self.path, ttl=ttl)
        options.setdefault("watch", False)  # a test tells when to look
        options.setdefault("read_write", self.engines.get("rw") or self.engine("rw"))
        if "read_only" not in options and "ro" in self.urls:
            options["read_only"] = self.engines.get("ro") or self.engine("ro")
        self.selector = EngineSelector(switch, **options)
        self.sessions = sessionmaker(self.selector, class_=RoutingSession)
        return self

    def engine_now(self) -> Engine:
        engine: Any = self.selector.engine()
        return engine if isinstance(engine, Engine) else engine.sync_engine

    def on(self, reason: str = "upgrade") -> None:
        """Create the file, as an operator would: of another process."""
        self.path.write_text(reason)

    def off(self) -> None:
        self.path.unlink()

    def flip(self) -> None:
        self.off() if self.path.exists() else self.on()

    def titles(self, name: str) -> list[str]:
        """The books in a database, read over a connection that is nobody else's."""
        url = self.urls[name]
        engine = create_engine(url.set(drivername=url.get_backend_name()), poolclass=NullPool)
        with engine.connect() as connection:
            return list(connection.scalars(select(Book.title).order_by(Book.title)))

    def close(self) -> None:
        if self.selector is not None:
            self.selector.close()
        for engine in self.made:
            engine.dispose()


def fill(url: URL, name: str) -> None:
    """Put into a database what each test begins with; its tables are made once."""
    if url.get_backend_name() == "sqlite" and not os.path.exists(str(url.database)):
        Path(str(url.database)).write_bytes(filled_file(name))
        return
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        if url not in _made:
            Base.metadata.create_all(connection)
            _made.add(url)
        if engine.dialect.name == "postgresql":
            connection.execute(text(EMPTIED))
        insert_rows(connection, name)


EMPTIED = """
    delete from book; delete from author; delete from which;
    select setval('book_id_seq', 1, false), setval('author_id_seq', 1, false)
"""
_made: set[URL] = set()


def insert_rows(connection: Connection, name: str) -> None:
    connection.execute(text("insert into which (name) values (:name)"), {"name": name})
    connection.execute(text("insert into author (id, name) values (1, 'Ann')"))


@cache
def filled_file(name: str) -> bytes:
    """A SQLite database, which is faster copied than made."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "filled.db")
        engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
        with engine.begin() as connection:
            Base.metadata.create_all(connection)
            insert_rows(connection, name)
        return path.read_bytes()


@contextlib.contextmanager
def make_app(directory: Path, urls: dict[str, URL]) -> Iterator[App]:
    for name, url in urls.items():
        fill(url, name)
    app = App(directory / "read-only.txt", urls)
    try:
        yield app
    finally:
        app.close()


def sqlite_urls(directory: Path, *names: str) -> dict[str, URL]:
    return {name: make_url(f"sqlite:///{directory}/{name}.db") for name in names}


class Clock:
    """time.monotonic(), and the clock by which an answer ages, moved on by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._real = time.monotonic

    def __call__(self) -> float:
        return self._real() + self.ahead


@contextlib.contextmanager
def set_clock(made: Callable[[], float]) -> Iterator[None]:
    """Have time.monotonic() and mode.clock() tell what ``made`` tells."""
    real, before = time.monotonic, mode.clock.__reduce__()[2]
    time.monotonic = made
    # The partial itself is changed, as the rooms have imported it by its name.
    mode.clock.__setstate__((made, (), {}, None))
    try:
        yield
    finally:
        time.monotonic = real
        mode.clock.__setstate__(before)


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    with set_clock(made):
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: a test need not wait for a disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def pg_urls(pg_server: Server) -> Iterator[dict[str, URL]]:
    """Two databases for all tests, emptied for each."""
    with fresh_pair(pg_server) as pair:
        yield {"rw": pair.read_write, "ro": pair.read_only}


@pytest.fixture(params=["sqlite", "postgresql"])
def app(request: pytest.FixtureRequest, place: Path) -> Iterator[App]:
    """Two databases, on each backend: nothing is started yet."""
    if request.param == "sqlite":
        urls = sqlite_urls(place, "rw", "ro")
    else:
        urls = dict(request.getfixturevalue("pg_urls"))
    with make_app(place, urls) as made:
        yield made


@pytest.fixture
def lite(place: Path) -> Iterator[App]:
    """Two SQLite databases: for what does not depend on the backend."""
    with make_app(place, sqlite_urls(place, "rw", "ro")) as made:
        yield made
