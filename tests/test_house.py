"""How the package is built: which room imports which, its length, what it touches, its words."""

from __future__ import annotations

import ast
import graphlib
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import sqlalchemy

PACKAGE = Path(__file__).parents[1] / "sa_readonly"

# Rooms and wings in the order of dependence, as docs/design.md has them under "The house": each
# imports only what stands before it.
HOUSE = (
    *("errors", "mode", "text"),
    *("telemetry", "announced", "forks"),
    *("refusals", "subscribers"),
    *("switch", "looking", "polled"),
    "rehearsal",
    "engines",
    "hold",
    "workers",
    "etcd",
    *(
        "checks",
        "asking",
        "bind",
        "selector",
        "holding",
        "refusing",
        "session",
        "scoped",
        "async_scoped",
        "config",
        "oneswitch",
        "plugin",
    ),
    *("web", "wsgi", "asgi", "metrics", "testing", "contrib"),
    *("command", "cli"),
)
FACE = "__init__"  # of the package: it imports what users import from it, and no room imports it

LONGEST = 400  # lines of a room

# The room that touches SQLAlchemy's private names, and what another one does, with the reason.
PRIVATES = "engines.privates"
ELSEWHERE = {
    # Overridden, so that a read in whose beginning a flip falls is served by the read-only engine.
    ("session", "_connection_for_bind"),
    # Called before a flush, which gets its connections in the middle of it, and could not wait.
    ("holding", "_connection_for_bind"),
    # What is done where a connection comes back, while a pool has one that is not to be kept.
    ("engines.checkins", "_do_return_conn"),
    # aiosqlite's, which has the same name as one of SQLAlchemy's.
    ("engines.sqlite", "_conn"),
    # A connection is in use before its pool has given it out, and until nothing more is told of it.
    ("engines.uses", "_do_get"),
    ("engines.uses", "_do_return_conn"),
    ("engines.uses", "_return_conn"),
}
# Private methods of SQLAlchemy's that may be overridden: a class that defines one touches it.
OVERRIDDEN = {
    *("_connection_for_bind", "_close_connection", "_create_connection", "_do_get"),
    *("_do_return_conn", "_execute_context", "_execute_internal", "_init_metadata"),
    "_return_conn",
}
# Where SQLAlchemy defines the private names that could be touched.
READ = ("orm/session.py", "orm/state_changes.py", "engine/*.py", "pool/*.py", "ext/asyncio/*.py")

BANNED = re.compile(r"\b(who|whom|nobody|somebody|anybody)\b", re.IGNORECASE)


# -- what is read ----------------------------------------------------------------------------


@cache
def rooms() -> dict[str, Path]:
    """The modules of the package by their dotted names; a wing's ``__init__`` has the wing's."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(room: str) -> str:
    """The room's or its wing's name, as it stands in the house."""
    return room.partition(".")[0]


def imported(room: str) -> dict[str, int]:
    """What a room imports of the package, anywhere in it, with the line of the import."""
    found: dict[str, int] = {}
    for node in ast.walk(tree(rooms()[room])):
        for name in _named_in(node, room):
            parts = name.split(".")
            # The name after a module's is a module, too, or one that is defined in the module.
            while parts and ".".join(parts) not in rooms():
                parts.pop()
            found.setdefault(".".join(parts) or FACE, node.lineno)  # type: ignore[attr-defined]
    return found


def _named_in(node: ast.AST, room: str) -> Iterator[str]:
    """The dotted names that a node imports of the package, without the package's own."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = ".".join(filter(None, [_package(room, node.level), node.module]))
        names = [f"{base}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        names = [str(one.value) for one in node.args if isinstance(one, ast.Constant)]
    for name in names:
        if place(name) == "sa_readonly":
            yield name.partition(".")[2]


def _package(room: str, level: int) -> str:
    """What the dots of a relative import stand for; nothing where there are none."""
    if not level:
        return ""
    parts = ["sa_readonly", *([] if room == FACE else room.split("."))]
    is_wing = rooms()[room].name == "__init__.py"
    return ".".join(parts[: len(parts) + is_wing - level])


# -- which imports which ---------------------------------------------------------------------


def test_every_room_has_its_place_in_the_house() -> None:
    assert {place(room) for room in rooms()} - {FACE} <= set(HOUSE)


def test_the_design_shows_the_house_in_the_same_order() -> None:
    design = (PACKAGE.parent / "docs" / "design.md").read_text(encoding="utf-8")
    section = design.partition("\n## The house\n")[2].partition("\n## ")[0]
    columns = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    names = re.findall(r"`(\w+)(?:\.py|/)`", "\n".join(columns))
    assert names == [name for name in HOUSE if name in {place(room) for room in rooms()}]


def test_a_room_imports_only_rooms_that_stand_before_it() -> None:
    wrong = [
        f"{room}, line {line}: {other}"
        for room in rooms()
        for other, line in imported(room).items()
        if room != FACE
        and (
            other == FACE
            or (
                place(other) != place(room) and HOUSE.index(place(other)) > HOUSE.index(place(room))
            )
        )
    ]
    assert wrong == []


def test_no_rooms_import_each_other_in_a_circle() -> None:
    # A wing's __init__ is run by each import of one of its rooms, and so imports none of them.
    graph = {room: set(imported(room)) - {room} for room in rooms()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_no_room_is_too_long() -> None:
    lines = {room: path.read_text(encoding="utf-8").count("\n") for room, path in rooms().items()}
    assert {room: number for room, number in lines.items() if number > LONGEST} == {}


def test_tox_tests_the_oldest_sqlalchemy_that_may_be_installed() -> None:
    root = PACKAGE.parent
    floor = re.findall(
        r"^    sqlalchemy>=([\d.]+),", (root / "setup.cfg").read_text(), re.MULTILINE
    )
    tested = re.findall(
        r"^    floor: sqlalchemy==(\S+)", (root / "tox.ini").read_text(), re.MULTILINE
    )
    assert len(floor) == 1
    assert floor == tested


# -- SQLAlchemy's private names --------------------------------------------------------------


def is_private(name: str) -> bool:
    public = ("_asdict", "_fields", "_make", "_replace")  # of a NamedTuple, which documents them
    return name.startswith("_") and not name.startswith(("__", "_sa_readonly", *public))


def may_touch(room: str) -> bool:
    return room == PRIVATES or room.startswith(f"{PRIVATES}.")


def defined(path: Path) -> set[str]:
    """The private names that a module's classes define, or that are set in it on ``self``."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                targets = getattr(one, "targets", [getattr(one, "target", one)])
                found |= {getattr(target, "id", getattr(target, "name", "")) for target in targets}
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def is_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


@cache
def theirs() -> set[str]:
    root = Path(sqlalchemy.__file__).parent
    return set[str]().union(*(defined(path) for names in READ for path in root.glob(names)))


@cache
def ours() -> set[str]:
    paths = (path for room, path in rooms().items() if not may_touch(room))
    return set[str]().union(*map(defined, paths)) - OVERRIDDEN


def touched(room: str) -> Iterator[tuple[str, int]]:
    """The private names of SQLAlchemy's that a room imports, reads, sets or overrides.

    A name that the package has a use of its own for counts where it is read of a variable.
    """
    for node in ast.walk(tree(rooms()[room])):
        if isinstance(node, ast.ImportFrom) and place(node.module or "") == "sqlalchemy":
            yield from ((one.name, node.lineno) for one in node.names if is_private(one.name))
        elif isinstance(node, ast.FunctionDef) and node.name in OVERRIDDEN:
            yield node.name, node.lineno
        elif isinstance(node, ast.Attribute) and node.attr in theirs():
            of_a_variable = isinstance(node.value, ast.Name) and not is_self(node)
            if node.attr not in ours() or of_a_variable:
                yield node.attr, node.lineno


def test_private_names_of_sqlalchemy_stand_in_one_room() -> None:
    wrong = [
        f"{room}, line {line}: {name}"
        for room in rooms()
        if not may_touch(room)
        for name, line in touched(room)
        if (room, name) not in ELSEWHERE
    ]
    assert wrong == []


def test_what_stands_elsewhere_is_still_touched_there() -> None:
    assert {(room, name) for room, _ in ELSEWHERE for name, _ in touched(room)} >= ELSEWHERE


# -- words -----------------------------------------------------------------------------------


def remarks(path: Path) -> Iterator[tuple[int, str]]:
    """The comments and docstrings of a module, but the docstrings that a command shows as help."""
    with tokenize.open(path) as file:
        text = file.read()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(tree(path)):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or any(
            "command" in ast.unparse(one) or "group" in ast.unparse(one)
            for one in getattr(node, "decorator_list", ())
        ):
            continue
        for one in body:  # an attribute's docstring stands after it
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant):
                yield one.lineno, str(one.value.value)


def test_comments_and_docstrings_speak_of_things_and_not_of_people() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {' '.join(text.split())[:70]}"
        for path in rooms().values()
        for line, text in remarks(path)
        if BANNED.search(text)
    ]
    assert wrong == []
