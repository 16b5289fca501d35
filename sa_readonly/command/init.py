"""``sa-readonly init``: the beginning of a fleet on etcd."""

from __future__ import annotations

import json
from time import sleep

import click

from ..etcd import operator
from ..etcd.records import LONGEST_FENCE
from .etcd_place import asking, opened
from .operate import keyed
from .options import Command, Where, json_too, seconds, the_etcd
from .terminal import CannotRun, note, say


@click.command(cls=Command)
@click.option(
    "--fence",
    metavar="SECONDS",
    callback=seconds,
    default="10",
    show_default=True,
    help="For how long a worker uses an answer when etcd can't be asked: more than three times its "
    "ttl, and 60 at most.",
)
@the_etcd
@json_too
def init(*, fence: float, where: Where, as_json: bool) -> None:
    """Begin a fleet on etcd, once, before its first worker starts.

    It makes the marker, the key with .fleet behind it. While the application is read-only it gives
    the fleet another --fence. It is refused where a marker, a key or a worker is: there `on`, and
    then `off`, is what makes a marker.
    """
    if not where.etcd:
        raise CannotRun("Give --etcd URLS (or set SA_READONLY_ETCD), and --key KEY.")
    store = opened(keyed(where))
    if not 0 < fence <= LONGEST_FENCE:
        raise CannotRun(
            f"--fence {fence:g} makes no sense. Give more than three times the workers' ttl, and "
            f"{LONGEST_FENCE:g} seconds at most."
        )

    def pause(seconds: float) -> None:
        note(
            f"{store.marker} was made by `on`, so entries of workers may be missing. This waits "
            f"{seconds:g} s, until none of those can write by an older answer."
        )
        sleep(seconds)

    with asking():
        marker = operator.init(store, fence, pause=pause)
    if as_json:
        say(json.dumps({"key": store.key, "marker": store.marker, "fence": marker.fence}))
    else:
        say(f"{store.marker} is there, with a fence of {marker.fence:g} s.")
