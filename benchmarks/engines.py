"""What an engine by URL costs: to be made, which some programs do all the time, and to be used."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session

from benchmarks.measure import Rows, Tables, Work, compare, main

STATEMENT = select(1)


def _made(make: Callable[[], Engine]) -> Work:
    def work(number: int) -> None:
        for _ in range(number):
            make()

    return work


def _made_for_one_statement(make: Callable[[], Engine]) -> Work:
    def work(number: int) -> None:
        for _ in range(number):
            engine = make()
            with engine.connect() as connection:
                connection.execute(STATEMENT)
            engine.dispose()

    return work


def _used(engine: Engine, statements: int) -> Work:
    def work(number: int) -> None:
        for _ in range(number):
            with Session(engine) as session:
                for _ in range(statements):
                    session.execute(STATEMENT)

    return work


def run(rounds: int) -> Tables:
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{os.path.join(directory, 'one.db')}"
        path = os.path.join(directory, "read-only.txt")

        def plain() -> Engine:
            return create_engine(url)

        def by_url() -> Engine:
            return create_engine(f"{url}?plugin=sa_readonly&sa_readonly_file={path}")

        def by_keyword() -> Engine:
            return create_engine(url, plugins=["sa_readonly"], sa_readonly_file=path)

        making = {
            "a plain engine": _made(plain),
            "by URL": _made(by_url),
            "by keyword": _made(by_keyword),
        }
        tables: dict[str, Rows] = {"Making an engine": compare(making, number=50, rounds=rounds)}
        engines = {"a plain engine": plain(), "an engine by URL": by_url()}
        makers = {"a plain engine": plain, "an engine by URL": by_url}
        tables["An engine for one statement"] = compare(
            {name: _made_for_one_statement(make) for name, make in makers.items()},
            number=10,
            rounds=rounds,
        )
        for statements in (1, 10):
            tables[f"A Session on an engine by URL, {statements}"] = compare(
                {name: _used(engine, statements) for name, engine in engines.items()},
                number=100,
                rounds=rounds,
            )
        for engine in engines.values():
            engine.dispose()
        return tables


if __name__ == "__main__":
    main(run)
