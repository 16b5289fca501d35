"""Configurations: any mapping makes a selector or a ConfigurationError, and leaves nothing open."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from sa_readonly import ConfigurationError, selector_from_config
from tests.feeds import Feed
from tests.postgres import wait_until

ENGINES = [
    f"{mode}.{role}" for mode in ("read_write", "read_only") for role in ("primary", "replica")
]
URLS = [
    "sqlite:///{0}/data.db",
    "sqlite:///{0}/other.db",
    "sqlite://",
    "sqlite:///:memory:",
    "sqlite+aiosqlite:///{0}/data.db",
    "postgresql://user:secret@127.0.0.1:1/x",
    "postgresql+asyncpg://127.0.0.1:1/x",
    "mysql+pymysql://127.0.0.1:1/x",
    "oracle://x",
    "mssql+pyodbc://x",
    "sqlite+none:///x",
    "none://x",
    "postgresql://x:port/y",
    "postgresql://user:secret@x:port/y",
    "mysql+pymysql://user:secret@[::1/x",
    "postgresql://[::1/x",
    "sqlite:///{0}/data.db?plugin=none",
    "sqlite:///{0}/data.db?uri=true&timeout=x",
    "sqlite:///{0}/none/data.db",
    "x",
    "",
    "://",
    "sqlite:",
    "sqlite:////\0",
]
FILES = ["{0}/read-only.txt", "{0}/none/read-only.txt", "{0}", "", " x", "\0", "{0}/url"]
OPTIONS: dict[str, list[Any]] = {
    "pool_size": ["3", "0", "-1", "x", 3, None, 2**70],
    "max_overflow": ["-1", "x", 0],
    "pool_timeout": ["1", "x"],
    "pool_recycle": ["5", "x", None],
    "pool_pre_ping": ["true", "maybe", True],
    "pool_use_lifo": ["true", "x"],
    "poolclass": [NullPool, QueuePool, StaticPool, "NullPool", dict],
    "pool": [None, "x", object()],
    "echo": ["true", "debug", "x", 5],
    "future": ["true", "false", True],
    "isolation_level": ["AUTOCOMMIT", "autocommit", "SERIALIZABLE", "x", 5],
    "connect_args": [{}, {"timeout": 1}, "x", None, [1]],
    "execution_options": [{}, {"isolation_level": "AUTOCOMMIT"}, "x", {"isolation_level": 7}],
    "creator": [None, "x", dict],
    "module": ["x", os],
    "plugins": [[], ["none"], "x"],
    "query_cache_size": ["5", "x"],
    "json_serializer": ["x"],
    "paramstyle": ["qmark", "x"],
    "encoding": ["utf-8"],
    "logging_name": ["x", 5],
    "pool_logging_name": ["x"],
    "pool_reset_on_return": ["rollback", "commit", "x", None],
    "insertmanyvalues_page_size": ["5", "x"],
    "max_identifier_length": ["5", "99999", -1],
    "strategy": ["threadlocal", "mock"],
    "_initialize": [False],
    "_is_async": [True],
    "skip_autocommit_rollback": ["true"],
    "none": ["x"],
    "": ["x"],
}
TOP: dict[str, list[Any]] = {
    "file": FILES,
    "ttl": ["0.5", "0", "-1", "nan", "inf", "x", 1, True, None, "9" * 400, 10**400],
    "pooler": ["session", "transaction", "x", None],
    "server_read_only": ["raise", "error", "flip", "x", None, [], {}],
    "etcd": ["http://127.0.0.1:1", "https://127.0.0.1:1", "x", "", [], ["http://127.0.0.1:1", 5]],
    "key": ["/key", "key", "/", "", 5, None],
    "user": ["user", "", 5],
    "password": ["secret", "", 5],
    "ca": ["{0}/url", "{0}/none", "", 5],
    "cert": ["{0}/url", "", 5],
    "cert_key": ["{0}/none", 5],
    "fence": ["10"],
    "grace": ["5"],
    "none": ["x"],
    "read_write": ["x"],
    "read_write.primary": ["x"],
}
ANY: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.sampled_from([10**400, "\ud800", "\0", "é" * 300]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.builds(object),
)


@st.composite
def mappings(draw: Any) -> tuple[str, dict[Any, Any]]:
    """A prefix, and a mapping: most have what is needed, and something more."""
    prefix = draw(st.sampled_from(["sa_readonly.", "sa_readonly.", "", "x", "."]))
    made: dict[Any, Any] = {}
    if draw(st.integers(0, 5)):
        made[f"{prefix}file"] = FILES[0]
    if draw(st.integers(0, 5)):
        made[f"{prefix}read_write.primary.url"] = URLS[0]
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["url", "url", "url_file", "option", "option", "top", "any"]))
        engine = draw(st.sampled_from(ENGINES))
        if kind == "url":
            made[f"{prefix}{engine}.url"] = draw(st.sampled_from(URLS) | ANY)
        elif kind == "url_file":
            made.pop(f"{prefix}{engine}.url", None)
            made[f"{prefix}{engine}.url_file"] = draw(st.sampled_from(["{0}/url", *FILES]) | ANY)
        elif kind == "option":
            name = draw(st.sampled_from(sorted(OPTIONS)))
            made[f"{prefix}{engine}.{name}"] = draw(st.sampled_from(OPTIONS[name]) | ANY)
        elif kind == "top":
            name = draw(st.sampled_from(sorted(TOP)))
            made[prefix + name] = draw(st.sampled_from(TOP[name]) | ANY)
        else:
            made[draw(st.text(max_size=4).map(lambda key: prefix + key) | st.integers())] = draw(
                ANY
            )
    return prefix, made


def _open() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def configurations(directory: Path) -> Feed:
    (directory / "url").write_text(f"sqlite:///{directory}/data.db\n")

    def placed(value: Any) -> Any:
        return value.replace("{0}", str(directory)) if isinstance(value, str) else value

    def check(given: tuple[str, dict[Any, Any]]) -> str:
        prefix, mapping = given
        mapping = {key: placed(value) for key, value in mapping.items()}
        before = _open(), set(threading.enumerate()), sorted(directory.rglob("*"))
        told = ""
        try:
            selector = selector_from_config(mapping, prefix, watch=False)
        except ConfigurationError as error:
            told = str(error)
        else:
            selector.close()
        assert "secret" not in told
        assert set(threading.enumerate()) <= before[1]
        there = [path for path in directory.rglob("*") if ".workers" not in str(path)]
        assert not told or sorted(directory.rglob("*")) == before[2]
        assert sorted(there) == [path for path in before[2] if ".workers" not in str(path)]
        # Threads of earlier tests may have a file open for a moment.
        wait_until(lambda: _open() <= before[0], "nothing is left open", 5)
        return "an error" if told else "a selector"

    return Feed("configurations", mappings(), check)
