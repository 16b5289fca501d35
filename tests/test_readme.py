"""What the README shows is run."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from sa_readonly import EngineSelector, RoutingSession
from tests.app import App

README = (Path(__file__).parent.parent / "README.md").read_text()


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"

    id: Mapped[int] = mapped_column(primary_key=True)


def test_the_examples_of_the_readme_run_in_either_mode(lite: App) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 5
    first, *others, last = (
        block.replace("/var/lib/myapp/read-only.txt", str(lite.path)) for block in blocks
    )
    for name in lite.urls:
        Base.metadata.create_all(lite.engine(name))
    urls = {name: str(url) for name, url in lite.urls.items()}
    names = {
        "Thing": Thing,
        "RW_MAIN_MASTER": urls["rw"],
        "RW_MAIN_SLAVE": urls["rw"],
        "RO_MAIN_MASTER": urls["ro"],
        "RO_MAIN_SLAVE": urls["ro"],
    }
    exec(first, names)  # our own text
    selector = names["selector"]
    assert isinstance(selector, EngineSelector)
    lite.on("upgrade")
    selector.check()
    for block in others:
        exec(block, names)
    assert names["message"] == "Not saved: upgrade. Try again after None."
    assert names["show_banner"]() == "We are read-only: upgrade"
    for role in ("primary", "replica"):
        selector.engine(role).dispose()
    selector.close()
    lite.off()
    exec(last, names)
    with names["selector"] as configured, sessionmaker(configured, class_=RoutingSession)() as one:
        engine = one.connection().engine
        assert engine.pool.size() == 10
    engine.dispose()


def test_the_readme_opens_with_the_two_commands() -> None:
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert [command.split("&&")[-1].strip() for command in commands] == [
        ".venv/bin/sa-readonly demo",
        ".venv/bin/python -m pytest",
    ]
