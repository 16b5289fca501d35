"""A routed transaction beside a plain one: SQLite files with a QueuePool."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from typing import Any

from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import QueuePool

from benchmarks.measure import Work, compare, main
from sa_readonly import EngineSelector, FixedSwitch, Mode, RoutingSession

STATEMENT = select(1)


class Plain(Session):
    """A Session class of the user's own, which does nothing: the fair thing to be beside."""


def reading(factory: Any, statements: int) -> Work:
    def work(number: int) -> None:
        for _ in range(number):
            with factory() as session:
                for _ in range(statements):
                    session.execute(STATEMENT).all()

    return work


def run(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        names = iter(range(100))

        def engine() -> Engine:
            path = os.path.join(directory, f"{next(names)}.db")
            made = create_engine(f"sqlite:///{path}", poolclass=QueuePool)
            stack.callback(made.dispose)
            return made

        def routed(switch: Any) -> Any:
            selector = EngineSelector(switch, read_write=engine(), read_only=engine())
            stack.enter_context(selector)
            return sessionmaker(selector, class_=RoutingSession)

        factories = {
            "Session": sessionmaker(engine(), class_=Plain),
            "get_bind() with isfile(), as in 2010": sessionmaker(
                class_=isfile_session(os.path.join(directory, "read-only.txt"), engine(), engine())
            ),
            "RoutingSession": routed(os.path.join(directory, "read-only.txt")),
            "RoutingSession while read-only": routed(FixedSwitch(Mode.READ_ONLY)),
        }
        return {
            f"A transaction of {statements}": compare(
                {name: reading(factory, statements) for name, factory in factories.items()},
                number=200,
                rounds=rounds,
            )
            for statements in (1, 10)
        }


def isfile_session(path: str, read_write: Engine, read_only: Engine) -> type[Session]:
    class IsFile(Session):
        def get_bind(self, *_: Any, **__: Any) -> Engine:
            return read_only if os.path.isfile(path) else read_write

    return IsFile


if __name__ == "__main__":
    main(run)
