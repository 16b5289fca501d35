"""A key in etcd as the switch of a command, and the workers of all hosts below it."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import click

from ..announced import content_of, with_announced
from ..errors import ConfigurationError
from ..etcd import operator, rehearsal
from ..etcd.addresses import parse
from ..etcd.entry import EtcdEntry
from ..etcd.errors import Denied, EtcdError
from ..etcd.fence import Fence
from ..etcd.history import EtcdHistory
from ..etcd.records import Store
from ..etcd.registry import EtcdRegistry, Reading, held_by_files, read
from ..etcd.sweep import sweep_acknowledged, sweep_old
from ..etcd.switch import PASSWORD, USER, store_of
from ..mode import Announced, Mode, State
from ..rehearsal.sheet import Sheet
from ..workers import process
from ..workers.protocol import Seen
from ..workers.status import Snapshot, snapshot
from .etcd_wait import EtcdWait
from .options import Where
from .place import Place
from .terminal import CannotRun, Failed, note, shown

_PASSWORD_SIZE = 4096  # bytes of a file with a password


class EtcdPlace(Place):
    """A key in etcd. Nothing is asked when it is made.

    :raises CannotRun: if there can be none.
    """

    thing = "key"
    pause = 1.0
    sheets_every = EtcdEntry.sheet_every
    elsewhere = "If the application's workers go by another key, give that by --key."

    def __init__(self, where: Where, *, as_json: bool) -> None:
        self.as_json = as_json
        self.store = opened(where)
        self.urls = parse(where.etcd)
        self.name = self.store.key
        self.registry_name = self.store.workers
        self.history = EtcdHistory(self.store)
        self._fence = Fence()
        self._told_fence: float | None = None

    def state(self) -> State:
        try:
            return self._state(read(self.store))
        except EtcdError as error:
            if _is_lasting(error):
                raise CannotRun(str(error)) from None
            return State(Mode.READ_ONLY, f"etcd can't be asked: {error}")

    def snapshot(self) -> Snapshot:
        with asking():
            reading = read(self.store)
        self._refuse_without_a_fleet(reading)
        state = self._state(reading)
        with contextlib.suppress(EtcdError):  # as it is denied to those that only look
            state = with_announced(state, operator.read_announced(self.store))
        return snapshot(state, reading.seen, time.time())

    def read(self) -> Sequence[Seen]:
        with asking():
            return read(self.store).seen

    def turn_on(self, reason: str | None, until: datetime | None) -> bool:
        try:
            with asking():
                done = operator.turn_on(self.store, reason, until)
        except ValueError as error:
            raise click.UsageError(shown(f"The key is not put: {error}")) from None
        self._fence.begin(done.key.generation)
        if not done.made and not done.edited:
            note(f"{self.name} is there already: it was turned on before.")
        if done.marker_made:
            note(
                f"{self.store.marker} was missing, damaged or of another cluster: it is made anew. "
                "A worker that registered before may go by a longer fence, so `wait` goes by 60 s, "
                "until `sa-readonly init --fence` renews it while the key is there."
            )
        with contextlib.suppress(EtcdError):  # what stays is told by its acknowledgement
            sweep_acknowledged(self.store)
        return done.made or done.edited or done.marker_made

    def turn_off(self) -> bool:
        with asking():
            self._refuse_without_a_fleet(read(self.store))
            done = operator.turn_off(self.store)
        if done.plainly:
            note("etcd's database is full, so the key was deleted without a comparison.")
        return done.key is not None

    def turned_off(self) -> None:
        try:
            hosts: dict[str, int] = {}
            for one in held_by_files(read(self.store)):
                hosts[str(one.host)] = hosts.get(str(one.host), 0) + 1
            for host, number in hosts.items():
                many = "worker" if number == 1 else "workers"
                note(f"{host} stays read-only, {number} {many}, by a file there: remove that.")
            sweep_old(self.store, note)
        except EtcdError as error:
            note(f"Old entries are not looked for: {error}")

    def announced(self) -> Announced | None:
        with asking():
            return operator.read_announced(self.store)

    def announce(self, announced: Announced | None) -> None:
        with asking():
            if announced is not None:
                self._refuse_without_a_fleet(read(self.store))
            operator.announce(self.store, None if announced is None else content_of(announced))

    def rehearse(self, *, on: bool) -> bool:
        with asking():
            return rehearsal.ask(self.store, on=on)

    def is_rehearsed(self) -> bool:
        with asking():
            return rehearsal.is_asked(self.store)

    def sheets(self) -> Sequence[Sheet]:
        with asking():
            return rehearsal.sheets(self.store)

    def waiting(self, mode: Mode, **how: Any) -> EtcdWait:
        """Return a wait, once it is known that there is a fleet, or that etcd is away."""
        try:
            self._refuse_without_a_fleet(read(self.store), unless=how.pop("turning_on", False))
        except EtcdError as error:
            if _is_lasting(error):
                raise CannotRun(str(error)) from None
        return EtcdWait(self.store, self._fence, mode=mode, **how)

    def facts(self) -> dict[str, object]:
        return {
            "file": None,
            "workers_directory": None,
            "key": self.name,
            "etcd": self.urls,
            "fence": self._told_fence,
        }

    def switch_rows(self) -> list[tuple[str, str]]:
        rows = [("key", self.name), ("etcd", ", ".join(self.urls))]
        return rows if self._told_fence is None else [*rows, ("fence", f"{self._told_fence:g} s")]

    def _state(self, reading: Reading) -> State:
        self._told_fence = None if reading.marker is None else reading.marker.fence
        if reading.key is not None:
            return State(Mode.READ_ONLY, *reading.key.text, generation=reading.generation)
        if reading.problem is None:
            return State(Mode.READ_WRITE)
        if self._is_none(reading):
            return State(Mode.READ_ONLY, self._never())
        return State(
            Mode.READ_ONLY,
            f"{reading.problem} ({self.store.marker}), so that no worker knows whether it may "
            "write: run `sa-readonly on`, and then `off`",
        )

    def _refuse_without_a_fleet(self, reading: Reading, *, unless: bool = False) -> None:
        if self._is_none(reading) and not unless:
            raise CannotRun(f"{self._never()}.")

    def _is_none(self, reading: Reading) -> bool:
        return reading.key is None and reading.marker is None and not reading.entries

    def _never(self) -> str:
        return (
            f"No fleet was initialised at {self.name} in this etcd, or its data were lost: there "
            f"are no {self.name}, no {self.store.marker} and no workers. Is the key right? Run "
            "`sa-readonly init` once, before the first worker starts; after a loss of data `on`, "
            "and then `off`"
        )


class HostRegistry(EtcdRegistry):
    """The workers of this host alone, which a file here turns.

    :param store: the key by which they go, too.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store, "")
        self.name = f"{store.workers} in etcd, those of {process.host()}"

    def read(self) -> list[Seen]:
        return [one for one in super().read() if one.host in (None, process.host())]


# -- how etcd is asked -----------------------------------------------------------------------


def opened(where: Where) -> Store:
    """Return the key in etcd; nothing is asked.

    :raises CannotRun: if there can be none.
    """
    password = _password(where)
    if (where.user is None) is not (password is None):
        cure = f"Set {PASSWORD}, or give --password-file PATH."
        if where.user is None:
            cure = f"Give --user NAME, or set {USER}."
        raise CannotRun(f"A user of etcd and a password are given together. {cure}")
    try:
        return store_of(
            where.etcd,
            where.key,
            user=where.user,
            password=password,
            ca=where.ca,
            cert=where.cert,
            cert_key=where.cert_key,
        )
    except ConfigurationError as error:
        raise CannotRun(str(error)) from None


def _password(where: Where) -> str | None:
    if where.password_file is None:
        return os.environ.get(PASSWORD) or None
    try:
        with open(where.password_file, encoding="utf-8") as file:
            password = file.read(_PASSWORD_SIZE).strip("\r\n")
    except OSError as error:
        raise CannotRun(
            f"--password-file {where.password_file} can't be read: {error.strerror}."
        ) from None
    except ValueError:  # of which the message may show some of it
        password = ""
    if not password or "\n" in password:
        raise CannotRun(f"--password-file {where.password_file} does not hold one line of text.")
    return password


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Have what etcd refuses, or does not answer, end the command with one sentence."""
    try:
        yield
    except operator.OperatorError as error:
        raise Failed(str(error)) from None
    except EtcdError as error:
        if _is_lasting(error):
            raise CannotRun(str(error)) from None
        raise Failed(f"etcd can't be asked: {error}") from None


def _is_lasting(error: BaseException) -> bool:
    """Return if it is what was given that is wrong, so that no time mends it."""
    cause: BaseException | None = error
    while cause is not None:
        passing = isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
        if isinstance(cause, (Denied, socket.gaierror, ssl.SSLError)) and not passing:
            return True
        cause = cause.__cause__
    return False
