"""What docs/url.md shows is true."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import create_engine, make_url

from sa_readonly import plugin
from sa_readonly.engines.single import of_engine
from tests.by_url import nothing_lingers
from tests.doctor import ROOT

__all__ = ["nothing_lingers"]

DOC = (ROOT / "docs" / "url.md").read_text(encoding="utf-8")


def test_the_arguments_are_those_of_the_plugin() -> None:
    table = "".join(line.split("|")[1] for line in DOC.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(sa_readonly_\w+)`", table)) == set(plugin._ARGUMENTS)


def test_the_smallest_change_is_the_end_of_one_line(place: Path) -> None:
    before, after = re.findall(r"^[-+]DATABASE_URL=(.*)$", DOC, re.MULTILINE)
    assert after.startswith(f"{before}?")
    engine = create_engine(after.replace("/var/lib/shop", str(place)))
    single = of_engine(engine)
    assert single is not None
    assert single.shared.path == f"{place}/read-only.txt"
    assert of_engine(create_engine(make_url(before))) is None
