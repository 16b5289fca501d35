"""``sa-readonly status``: the mode, and how far each worker is."""

from __future__ import annotations

import threading
from contextlib import suppress

import click
from rich.console import Console
from rich.text import Text

from ..mode import now
from ..workers.status import Snapshot
from .options import Command, json_too, the_file, the_workers
from .place import Place, block, operate, rows, show, worker_table
from .terminal import Screen, is_terminal, local, say, terminable

_PAUSE = 0.2  # seconds between two snapshots of --watch


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Go on and tell each change, until Ctrl-C.")
@the_file
@the_workers
@json_too
def status(*, watch: bool, file: str | None, workers: str | None, as_json: bool) -> None:
    """Tell the mode, and how far each worker is. Exits with 0 in either mode."""
    with operate(file, workers, as_json) as place:
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
    say(snapshot.sums)


def _watch(place: Place) -> None:
    pause = threading.Event()
    last: tuple[object, ...] | None = None
    with terminable(), suppress(KeyboardInterrupt), Screen(quiet=place.as_json) as screen:
        while True:
            snapshot = place.snapshot()
            if last != snapshot.lasting or (screen.draws and snapshot.changing):
                last = snapshot.lasting
                if screen.draws:
                    colour = "yellow" if snapshot.state.read_only else "green"
                    screen.draw(
                        Text(block(place, snapshot.state), colour),
                        worker_table(snapshot.workers, screen.console),
                        Text(f"{snapshot.sums}\n\nCtrl-C ends this."),
                    )
                elif place.as_json:
                    show(place, snapshot, changed=False)
                else:
                    told = [f"{name}: {text}" for name, text in rows(place, snapshot.state)]
                    line = "; ".join([*told, snapshot.sums])
                    say(f"{local(now())} {line}".replace("\n", " / "))
            pause.wait(_PAUSE)
