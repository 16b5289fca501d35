"""In the place of sqlbag, whose release does not know SQLAlchemy 2: what sqlakeyset's tests use."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2
from sqlalchemy import create_engine, make_url, orm

numbers = itertools.count(1)
engine: Any = cache(create_engine)  # one for each URL, as sqlbag has it


@contextmanager
def S(url: str, *, future: bool, **options: Any) -> Iterator[orm.Session]:  # noqa: N802  # its name
    with orm.sessionmaker(engine(url, **options)).begin() as session:
        yield session


@contextmanager
def temporary_database(kind: str, *, host: str) -> Iterator[str]:
    if kind == "sqlite":
        with TemporaryDirectory() as place:
            yield f"sqlite:///{Path(place, 'test.db')}"
        return
    server = make_url(os.environ["PEERS_POSTGRESQL"])
    name = f"keyset_{next(numbers)}"
    with closing(psycopg2.connect(server.render_as_string())) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        yield server.set(drivername=kind, database=name).render_as_string()
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
