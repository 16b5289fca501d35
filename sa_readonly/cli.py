"""The command ``sa-readonly``: it finds the room of each command."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

try:
    import click
    import rich  # noqa: F401  # its absence is told here, and not by a traceback
except ModuleNotFoundError as missing:
    package = (missing.name or "").partition(".")[0]
    if package not in ("click", "rich"):
        raise
    sys.stderr.write(
        f"sa-readonly: the command needs {package}, which is not installed: "
        "pip install 'sa-readonly[cli]'\n"
    )
    raise SystemExit(2) from None

__all__ = ["main"]

_ROOMS = {
    "demo": "demo",
    "doctor": "doctor",
    "off": "on_off",
    "on": "on_off",
    "run": "run",
    "status": "status",
    "wait": "wait",
}


def _version() -> str:
    try:
        return version("sa-readonly")
    except PackageNotFoundError:
        return "(not installed: run from a checkout)"


class _Commands(click.Group):
    """Imports the room of a command when it is asked for: the others would take longer than it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_ROOMS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ROOMS:
            return None
        room = import_module(f".command.{_ROOMS[cmd_name]}", __package__)
        command: click.Command = getattr(room, cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="sa-readonly", message="%(prog)s %(version)s")
def main() -> None:
    """Turn an SQLAlchemy application read-only, and back, by a file."""


if __name__ == "__main__":
    main(prog_name="sa-readonly")
