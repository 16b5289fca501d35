"""Feed it all, for as long as it is told: ``python -m tests.feeds 3h [SEED]``.

Each round has a seed of its own, the first one that which is given. At the end, or where something
does not hold, it prints what was fed, how it ended, and what the guard refuses that only reads.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import date
from pathlib import Path

from sa_readonly.command.options import span
from tests.feeds import Feed, feed
from tests.feeds.commands import command_lines
from tests.feeds.configurations import configurations
from tests.feeds.reports import in_a_directory, in_etcd, keys, markers
from tests.feeds.requests import Pages, through_asgi, through_wsgi
from tests.feeds.servers import Judge, Logged, on_mariadb, on_postgresql, on_sqlite
from tests.feeds.texts import Lines, files, lines_of_a_terminal
from tests.postgres import Server, memory_or_disk

_ROUND = 500  # inputs of each kind


def main(duration: str, first: str = "1") -> int:
    length, seed = span(duration), int(first)
    if length is None:
        raise SystemExit(f"{duration!r} is no duration, such as 90s, 10m or 3h.")
    end = time.monotonic() + length.total_seconds()
    logging.getLogger("sa_readonly").addHandler(Lines())
    ended: dict[str, Counter[str]] = {}
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory_or_disk())))
        for name in ("file", "commands", "configurations", "pages", "sqlite"):
            (place / name).mkdir()
        pages = stack.enter_context(closing(Pages(place / "pages")))
        judges: list[Judge] = [
            stack.enter_context(on_postgresql(stack.enter_context(Server.launch()))),
            stack.enter_context(on_mariadb(stack.enter_context(Logged.launch()))),
            stack.enter_context(on_sqlite(place / "sqlite")),
        ]
        feeds: list[Feed] = [
            *(files(place / "file"), lines_of_a_terminal()),
            *(in_a_directory(), in_etcd(), markers(), keys()),
            *(through_wsgi(pages), through_asgi(pages)),
            command_lines(place / "commands"),
            configurations(place / "configurations"),
            *(judge.feed() for judge in judges),
        ]
        last = seed
        try:
            while time.monotonic() < end or last == seed:
                for one in feeds:
                    ended.setdefault(one.name, Counter()).update(feed(one, _ROUND, last))
                last += 1
        finally:
            told = _told(ended, judges)
            print(f"{date.today()}, seeds {seed} to {last - 1}", *told, sep="\n")  # noqa: T201  # its result
    return 0


def _told(ended: dict[str, Counter[str]], judges: list[Judge]) -> Iterator[str]:
    """Yield the lines of two tables: how all ended, and what is refused that only reads."""
    yield from ("", "| what is fed | inputs | how they ended |", "| --- | --- | --- |")
    for name, told in ended.items():
        kinds = ", ".join(f"{kind}: {number:,}" for kind, number in told.most_common())
        yield f"| {name} | {sum(told.values()):,} | {kinds} |"
    lost = [Counter[str]() for _ in judges]
    examples: dict[str, list[str]] = {}
    for one, judge in zip(lost, judges, strict=True):
        for kind, number in judge.verdicts.lost.items():
            one[_kind(kind)] += number
            examples.setdefault(_kind(kind), []).append(judge.verdicts.example[kind])
    heads = " | ".join(judge.grammar.__name__ for judge in judges)
    yield from ("", f"| refused though it only reads | {heads} | such as |", "| --- " * 5 + "|")
    for kind, _ in sum(lost, Counter()).most_common():
        numbers = " | ".join(str(one[kind] or "") for one in lost)
        example = " ".join(min(examples[kind], key=len).split()).replace("|", "\\|")
        yield f"| {kind} | {numbers} | `{example[:80]}` |"
    yield " | ".join(("| texts", *(f"{judge.verdicts.texts:,}" for judge in judges), " |"))


def _kind(told: str) -> str:
    """Return a kind of refusals, which may be of several functions, settings or PRAGMAs."""
    if told.endswith("()"):
        return "a call of a function that acts"
    first, *more = told.split(" ")
    return first if more and first in ("PRAGMA", "SET", "RESET") else told


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
