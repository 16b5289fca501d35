"""What a road is, where it is tried, and the tables that it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Engine, ForeignKey, Integer, MetaData, Sequence, String, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

PG, LITE, MY = "postgresql", "sqlite", "mysql"
ALL = frozenset((PG, LITE, MY))

W = "INSERT INTO thing (name) VALUES ('road')"
new = {"name": "road"}


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    note: Mapped[str | None] = mapped_column(String(50))
    parts: Mapped[list[Part]] = relationship(cascade="all, delete-orphan", back_populates="thing")


class Part(Base):
    __tablename__ = "part"
    id: Mapped[int] = mapped_column(primary_key=True)
    thing_id: Mapped[int] = mapped_column(ForeignKey("thing.id"))
    name: Mapped[str] = mapped_column(String(50))
    thing: Mapped[Thing] = relationship(back_populates="parts")


thing = Thing.__table__
other = Table("other", MetaData(), Column("id", Integer, primary_key=True))
counted = Table(
    "counted",
    MetaData(),
    Column("id", Integer, Sequence("seq"), primary_key=True),
    Column("name", String(50)),
)


@dataclass(frozen=True)
class Place:
    """Where a road is tried.

    `engine` is what an application asks for in Core; `read_write` the engine that it made for
    writing, `scratch` a directory that the server can write. `probe` is called while the
    transaction is open, for what leaves no trace when it has ended.
    """

    dialect: str
    driver: str
    session: Callable[..., Session]
    engine: Callable[[], Engine]
    read_write: Engine
    scratch: str
    probe: Callable[[], object]


@dataclass(frozen=True)
class Road:
    name: str
    go: Callable[[Place], object]
    dialects: frozenset[str] = ALL
    raw: bool = False  # the driver's own error is right too
    around: bool = False  # it goes round the selector, to the read-write engine
    traceless: bool = False  # nothing is left of it; the control looks while it is under way
    drivers: frozenset[str] | None = None
    way: str | None = None  # how a text is sent
    since: int = 0  # the first version of PostgreSQL that has it, or refuses it


ROADS: list[Road] = []


def road(*dialects: str, **kwargs: Any) -> Callable[[Callable[[Place], object]], Any]:
    def add(function: Callable[[Place], object]) -> Callable[[Place], object]:
        name = function.__name__.replace("_", " ")
        ROADS.append(Road(name, function, frozenset(dialects) or ALL, **kwargs))
        return function

    return add
