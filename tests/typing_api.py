"""The public API as users type it: checked by mypy --strict, never run."""

from __future__ import annotations

from asyncio import current_task
from datetime import datetime
from pathlib import Path

from prometheus_client import REGISTRY
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from typing_extensions import assert_type

from sa_readonly import (
    Engines,
    EngineSelector,
    FileSwitch,
    FixedSwitch,
    Mode,
    PolledSwitch,
    ReadOnlyError,
    RoutingSession,
    State,
    Switch,
    async_scoped_session,
    scoped_session,
    selector_from_config,
)
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.metrics import ReadOnlyCollector
from sa_readonly.mode import clock
from sa_readonly.subscribers import BaseSwitch
from sa_readonly.testing import read_only, read_write, writes_nothing
from sa_readonly.workers.directory import DirectoryRegistry


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"

    id: Mapped[int] = mapped_column(primary_key=True)


class OwnSwitch(BaseSwitch):
    def __init__(self) -> None:
        super().__init__("own", ttl=1, fence=10)

    def check(self) -> State:
        self.learn(State(Mode.READ_WRITE), clock())
        return self.known


def sync(rw: Engine, ro: Engine) -> None:
    selector = EngineSelector(
        "/var/lib/myapp/read-only.txt",
        read_write=Engines(primary=rw, replica=ro),
        read_only=Engines(primary=ro),
    )
    EngineSelector(FileSwitch("/tmp/x", ttl=0.5), read_write=rw, read_only=ro).close()
    EngineSelector("/tmp/x", read_write=rw, server_read_only="flip").close()
    EngineSelector("/tmp/x", read_write=rw, grace=30, watch=False, workers="required").close()
    EngineSelector("/tmp/x", read_write=rw, workers=Path("/tmp/workers")).close()
    EngineSelector("/tmp/x", read_write=rw, workers=DirectoryRegistry("/tmp/workers")).close()
    EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=create_engine("sqlite://"))
    EngineSelector(PolledSwitch(lambda: None, ttl=0.5, fence=5), read_write=rw).close()
    in_etcd = EtcdSwitch(["https://a", "https://b"], key="/a/b", ttl=0.5, file=Path("/tmp/x"))
    EngineSelector(in_etcd, read_write=rw, workers=in_etcd.registry).close()
    EngineSelector(OwnSwitch(), read_write=rw).close()
    factory = sessionmaker(selector, class_=RoutingSession)
    with factory.begin() as session:
        assert_type(session, RoutingSession)
        session.add(Thing())
    with factory(role="replica") as session:
        session.scalars(select(Thing)).all()
        session.role = "primary"
        assert_type(session.role, str)
    registry = scoped_session(factory)
    assert_type(registry(), RoutingSession)
    registry.role = "replica"
    assert_type(registry.role, str)
    Session(binds={Base: selector})
    selector.replace(read_write=rw)
    selector.replace(read_write=Engines(primary=rw, replica=ro))
    REGISTRY.register(ReadOnlyCollector(selector))
    assert_type(selector.mode, Mode)
    assert_type(selector.read_only, bool)
    assert_type(selector.state, State)
    assert_type(selector.state.until, datetime | None)
    assert_type(selector.check(), State)
    with read_only(selector), read_write(selector), writes_nothing(selector):
        pass
    with read_only(selector, reason="upgrade", until=datetime.now()):
        pass
    switch: Switch = selector.switch
    switch.check()

    @selector.on_flip
    def told(old: State, new: State) -> None: ...

    with selector.engine().begin() as connection:
        connection.execute(select(Thing))
    try:
        selector.require_read_write()
    except ReadOnlyError as error:
        assert_type(error.reason, str | None)
        assert_type(error.statement, str | None)


async def asynchronous(rw: AsyncEngine, mapping: dict[str, str]) -> None:
    async with EngineSelector("/tmp/x", read_write=rw) as selector:
        factory = async_sessionmaker(selector, sync_session_class=RoutingSession)
        async with factory() as session:
            assert_type(session, AsyncSession)
        registry = async_scoped_session(factory, current_task)
        assert_type(registry(), AsyncSession)
        registry.role = "replica"
    selector_from_config(mapping, prefix="readonly.").close()
