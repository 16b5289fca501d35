"""Engines by URL whose mode a key in etcd tells."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text

from sa_readonly import ReadOnlyError
from tests.by_url import nothing_lingers, shared_of
from tests.etcd_fleet import Fleet, bare, fleet

__all__ = ["bare", "fleet", "nothing_lingers"]  # fixtures


def test_a_key_in_etcd_turns_engines_by_url(fleet: Fleet) -> None:
    query = {
        "plugin": "sa_readonly",
        "sa_readonly_etcd": fleet.etcd.urls,
        "sa_readonly_key": fleet.store.key,
    }
    engines = [create_engine(fleet.app.urls["rw"].update_query_dict(query)) for _ in range(2)]
    fleet.app.made += engines
    assert shared_of(engines[0]) is shared_of(engines[1])
    insert = text("insert into book (title) values ('road')")
    for engine in engines:
        with engine.begin() as connection:
            connection.execute(insert)
    assert len(fleet.read().seen) == 1
    fleet.on()
    shared_of(engines[0]).check()
    for engine in engines:
        with engine.connect() as connection:
            assert connection.scalar(text("select name from which")) == "rw"
            with pytest.raises(ReadOnlyError):
                connection.execute(insert)
    assert fleet.drained()
    fleet.off()
    shared_of(engines[0]).check()
    with engines[1].begin() as connection:
        connection.execute(insert)
    assert fleet.app.titles("rw") == ["road"] * 3
