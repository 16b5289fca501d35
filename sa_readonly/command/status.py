"""``sa-readonly status``: the mode, and how far each worker is."""

from __future__ import annotations

import threading
from contextlib import suppress

import click
from rich.console import Console
from rich.text import Text

from ..mode import now
from ..workers.status import Snapshot
from .operate import operate
from .options import Command, Where, json_too, the_switch
from .place import Place, block, rows, show, worker_table
from .terminal import Failed, Screen, is_terminal, local, note, say, terminable


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Go on and tell each change, until Ctrl-C.")
@the_switch
@json_too
def status(*, watch: bool, where: Where, as_json: bool) -> None:
    """Tell the mode, and how far each worker is. Exits with 0 in either mode."""
    with operate(where, as_json) as place:
        if watch:
            _watch(place)
            return
        snapshot = place.snapshot()
        show(place, snapshot, changed=False)
        if not as_json:
            _show_workers(snapshot)


def _show_workers(snapshot: Snapshot) -> None:
    if is_terminal() and snapshot.workers:
        Console(highlight=False).print(worker_table(snapshot.workers))
    else:
        for worker in snapshot.workers:
            say(worker.as_line())
    for line in _sums(snapshot):
        say(line)


def _sums(snapshot: Snapshot) -> list[str]:
    held = snapshot.told_held
    return [snapshot.sums] if held is None else [f"held: {held}", snapshot.sums]


def _watch(place: Place) -> None:
    pause = threading.Event()
    last: tuple[object, ...] | None = None
    trouble: str | None = None
    with terminable(), suppress(KeyboardInterrupt), Screen(quiet=place.as_json) as screen:
        while True:
            try:
                snapshot = place.snapshot()
            except Failed as error:  # it is away, and goes on being looked for
                if trouble != error.message:
                    trouble, last = error.message, None
                    note(f"{local(now())} {trouble}")
                pause.wait(place.pause)
                continue
            trouble = None
            if last != snapshot.lasting or (screen.draws and snapshot.changing):
                last = snapshot.lasting
                if screen.draws:
                    colour = "yellow" if snapshot.state.read_only else "green"
                    screen.draw(
                        Text(block(place, snapshot.state), colour),
                        worker_table(snapshot.workers, screen.console),
                        Text("\n".join([*_sums(snapshot), "", "Ctrl-C ends this."])),
                    )
                elif place.as_json:
                    show(place, snapshot, changed=False)
                else:
                    told = [f"{name}: {text}" for name, text in rows(place, snapshot.state)]
                    line = "; ".join([*told, *_sums(snapshot)])
                    say(f"{local(now())} {line}".replace("\n", " / "))
            pause.wait(place.pause)
