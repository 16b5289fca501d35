"""``sa-readonly run``: a job that would rather wait than fail."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

import click

from ..mode import Mode, State
from .operate import operate
from .options import Where, seconds, the_switch_alone
from .place import Place
from .terminal import Failed, note

_TRY_AGAIN_LATER = 75  # EX_TEMPFAIL of sysexits.h


class _NotNow(click.ClickException):
    exit_code = _TRY_AGAIN_LATER


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--wait",
    metavar="SECONDS|10m",
    callback=seconds,
    default="0",
    help="Wait so long at most: 90s, 10m, 2h, or seconds. Without it, don't wait.",
)
@click.option(
    "--mode",
    type=click.Choice([str(mode) for mode in Mode]),
    default=str(Mode.READ_WRITE),
    show_default=True,
    help="The mode in which the command may run.",
)
@the_switch_alone
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(*, wait: float, mode: str, where: Where, command: tuple[str, ...]) -> None:
    """Run COMMAND once the application may write.

    For jobs that would rather wait than fail. COMMAND takes the place of this process: its pid,
    signals and exit code are COMMAND's. Exits with 75 if the mode is another one when time is up,
    127 if there is no such command and 126 if it can't be run.
    """
    try:
        with operate(where, False) as place, suppress(KeyboardInterrupt):
            state = _wait_for(place, Mode(mode), wait)
            if state.mode is Mode(mode):
                _execute(command)
            reason = "" if state.reason is None else f" ({' / '.join(state.reason.splitlines())})"
            note(f"It is {state.mode}{reason}: {command[0]} is not run.")
            raise SystemExit(_TRY_AGAIN_LATER)
    except Failed as error:  # the file can't be looked at now
        raise _NotNow(error.message) from None
    raise SystemExit(130)


def _wait_for(place: Place, mode: Mode, limit: float) -> State:
    end = time.monotonic() + limit
    pause = threading.Event()
    state = place.state()
    if state.mode is not mode and limit and sys.stderr.isatty():
        note(f"It is {state.mode}. Waiting {limit:g} s at most; Ctrl-C ends it.")
    while state.mode is not mode and (remaining := end - time.monotonic()) > 0:
        pause.wait(min(place.pause, remaining))
        state = place.state()
    return state


def _execute(command: tuple[str, ...]) -> NoReturn:
    """Become that command, as a shell's exec does."""
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and the command would inherit that
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606  # no shell is wanted
    except OSError as error:
        note(f"{command[0]}: {error.strerror or error}")
        raise SystemExit(127 if isinstance(error, FileNotFoundError) else 126) from None
