"""What the README shows is run."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import click
import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from sa_readonly import EngineSelector, RoutingSession
from sa_readonly.cli import main
from tests.app import App

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
USAGE = (ROOT / "docs" / "usage.md").read_text()
COMMAND = (ROOT / "docs" / "command.md").read_text()
OPTIONS = COMMAND + (ROOT / "docs" / "announcing.md").read_text()


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"

    id: Mapped[int] = mapped_column(primary_key=True)


def test_the_examples_of_the_readme_and_of_usage_run_in_either_mode(lite: App) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README + USAGE, re.DOTALL)
    assert len(blocks) == 8
    first, *others, last, asynchronous = (
        block.replace("/var/lib/myapp/read-only.txt", str(lite.path)) for block in blocks
    )
    for name in lite.urls:
        Base.metadata.create_all(lite.engine(name))
    urls = {name: str(url) for name, url in lite.urls.items()}
    names = {
        "Thing": Thing,
        "application": None,
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
    assert names["message"] == "Not saved: upgrade. Try again after a while."
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
    for name in ("rw", "ro"):
        names[f"ASYNC_{name.upper()}_URL"] = lite.urls[name].set(drivername="sqlite+aiosqlite")
    exec(asynchronous, names)
    assert asyncio.run(names["main"]()) is None
    lite.on("upgrade")
    assert asyncio.run(names["main"]()) == "0 things, and no more: upgrade"


def test_the_readme_opens_with_the_two_commands() -> None:
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert [command.split("&&")[-1].strip() for command in commands] == [
        ".venv/bin/sa-readonly demo",
        ".venv/bin/python -m pytest",
    ]


def test_the_readme_has_at_most_700_words_outside_code() -> None:
    assert len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()) <= 700


@pytest.mark.parametrize("text", [README, COMMAND], ids=["readme", "command"])
def test_every_command_that_is_shown_is_one(text: str) -> None:
    shown = re.findall(r"^ *[$#] sa-readonly (.*)$", text, re.MULTILINE)
    assert len(shown) >= 2
    for line in shown:
        name, *arguments = shlex.split(line)
        command = main.get_command(click.Context(main), name)
        assert command is not None, line
        command.make_context(name, arguments)  # refuses what it does not take


@pytest.mark.parametrize("name", ["on", "off", "wait", "status", "run", "announce", "history"])
def test_every_option_is_in_the_docs(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    for option in command.params:
        for word in (*option.opts, option.envvar):
            assert word is None or not word.startswith(("--", "SA_")) or word in OPTIONS, word
