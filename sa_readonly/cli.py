"""The command ``sa-readonly``; each of its commands has a room in ``command/``."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

try:
    import click
    import rich  # noqa: F401  # that it is missing is told here, and not by a traceback
except ModuleNotFoundError as missing:
    package = (missing.name or "").partition(".")[0]
    if package not in ("click", "rich"):
        raise
    sys.stderr.write(
        f"sa-readonly: the command needs {package}, which is not installed: "
        "pip install 'sa-readonly[cli]'\n"
    )
    raise SystemExit(2) from None

from .command.announce import announce
from .command.demo import demo
from .command.doctor import doctor
from .command.history import history
from .command.init import init
from .command.on_off import off, on
from .command.rehearsal import rehearsal
from .command.run import run
from .command.status import status
from .command.terminal import Group
from .command.wait import wait

__all__ = ["main"]


def _version() -> str:
    try:
        return version("sa-readonly")
    except PackageNotFoundError:
        return "(not installed: run from a checkout)"


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="sa-readonly", message="%(prog)s %(version)s")
def main() -> None:
    """Turn an SQLAlchemy application read-only, and back, by a file or a key in etcd."""


for _command in (announce, demo, doctor, history, init, off, on, rehearsal, run, status, wait):
    main.add_command(_command)


if __name__ == "__main__":
    main(prog_name="sa-readonly")
