"""The one way into this wing: a selector hands its engines over, and gets back what it picks from.

Each engine goes down through the rooms once. It is taken away while read-only (gated, with a door),
or protected (read-only in both modes, with a reader), or both; and where a read-only engine is
missing, a twin is made.

Engines in the place of others are handed over so, too, as one more :class:`GuardedEngines`.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import InvalidRequestError

from .. import refusals
from ..errors import ReadOnlyError
from ..mode import Mode
from . import guard, loops, protection
from .answers import LONGEST, PROBED, may_write
from .dialects import family, shown
from .doors import Door
from .guard import Limit
from .pools import holds_database
from .readers import Reader, TwinEngine
from .retired import OneSet
from .server import ServerSwitch
from .url_files import has_url_file, read_again

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy.engine import Engine

    from ..mode import State, Switch

__all__ = ["NOT_READ_ONLY", "ROLES", "GuardedEngines"]

ROLES = ("primary", "replica")
NOT_READ_ONLY = (
    "EngineSelector.replace() takes engines for the next read-write time, and it is read-write by "
    "its switch. Turn the application read-only first (sa-readonly on), and call it then."
)


class GuardedEngines(OneSet):
    """The engines of one selector, guarded until :meth:`release`.

    :param switch: what tells the mode.
    :param given: the engines by their names: ``"read_write.primary"`` and, as far as they were
        given, ``"read_write.replica"``, ``"read_only.primary"`` and ``"read_only.replica"``.
    :param grace: seconds for which what has begun may go on after a flip; None sets no limit.
    :param pooler: one of :data:`.poolers.POOLERS`, or None.
    :param server_read_only: one of :data:`.server.ANSWERS`.
    :param before: the selector's engines of until now. At the first :meth:`turn` these take their
        place, whose routes they share: while read-only those to write, and with the flip back those
        to read. The engines before them stay shut.
    """

    routes: dict[str, dict[Mode, Engine]]
    """The engine by role and mode, of the selector."""

    engines: Mapping[str, Engine]
    """Its own engines by name. An engine may have several names; what counts goes by the first."""

    doors: list[Door]
    """The doors of the engines that are taken away while read-only."""

    server: ServerSwitch | None = None
    """What its server's word turns, where that is asked for."""

    facts: Engine
    """The engine that is asked for what is known without a connection."""

    def __init__(
        self,
        switch: Switch,
        given: Mapping[str, Engine],
        *,
        grace: float | None = None,
        pooler: str | None = None,
        server_read_only: str = "raise",
        before: GuardedEngines | None = None,
    ) -> None:
        self._switch = switch
        self._grace = grace
        self._deadline: float | None = None  # while read-only
        self._gated: list[Engine] = []
        self._protected: dict[Engine, Reader] = {}
        self._twins: list[TwinEngine] = []
        self._before = before
        self._after: GuardedEngines | None = None  # which has taken the place of this one
        self._released = False
        self._mode: Mode | None = None  # the one of the last turn
        # What has no door, and a URL in a file that is read again at the flip to this mode.
        self._renewed: dict[Mode, list[Reader | TwinEngine]] = {mode: [] for mode in Mode}
        self.doors = []
        try:
            self._take_over(given, pooler)
            self._answer(given["read_write.primary"], server_read_only)
        except BaseException:
            self.release()
            raise

    def _take_over(self, given: Mapping[str, Engine], pooler: str | None) -> None:
        primary, replica = given["read_write.primary"], given.get("read_write.replica")
        reading = given.get("read_only.primary")
        reading_replica = given.get("read_only.replica", reading)

        taken_away = [primary]
        protected = [one for one in dict.fromkeys((reading, reading_replica)) if one is not None]
        if replica is not None and replica not in (primary, *protected):
            protected.append(replica)
            if reading is not None:  # else the replica serves in both modes
                taken_away.append(replica)
        for engine in given.values():
            protection.behind(engine, pooler)
        self._gate(taken_away)
        self._protect(protected, replica)

        # Twins: one in the place of read_only, or one for the role "replica" where there is none.
        serving = replica or primary
        if reading is None or (serving is primary and not holds_database(primary)):
            twin = self._twin(primary, gated=reading is not None)
            self._twins.append(twin)
            if serving is primary:
                serving = twin
            if reading is None:
                protection.warn(primary, self._switch)
                reading, reading_replica = twin, replica or twin
            else:
                taken_away.append(twin)
        self.doors = [Door.of(engine) for engine in taken_away]
        if self._before is not None:
            for door in self.doors:  # it is read-only, and one that is open acknowledges nothing
                door.shut(self)
        self._use()
        routes = {
            "primary": {Mode.READ_WRITE: primary, Mode.READ_ONLY: reading},
            "replica": {Mode.READ_WRITE: serving, Mode.READ_ONLY: reading_replica or reading},
        }
        self.engines = {
            f"{name}.{role}": routes[role][mode]
            for role in ROLES
            for name, mode in (("read_write", Mode.READ_WRITE), ("read_only", Mode.READ_ONLY))
        }
        self._note_url_files(given, taken_away)
        before = self._before
        self._own = routes
        self.routes = (
            {role: dict(routes[role]) for role in ROLES} if before is None else before.routes
        )
        self.facts = primary if before is None else before.facts

    def _gate(self, engines: Sequence[Engine]) -> None:
        gated = [engine.dialect for one in self._earlier() for engine in one._gated]
        for engine in engines:
            if engine.dialect not in gated:  # twice would be asked twice
                protection.gate(engine, self._switch)
                self._gated.append(engine)

    def _protect(self, engines: Sequence[Engine], replica: Engine | None) -> None:
        for engine in engines:
            new = not guard.read_only(engine)
            protection.protect(engine, self._switch, serves=engine is replica)
            self._protected[engine] = Reader.of(engine)
            if new:
                self._protected[engine].lock()
                protection.warn(engine, self._switch)

    def _note_url_files(self, given: Mapping[str, Engine], taken_away: Sequence[Engine]) -> None:
        for name, engine in given.items():
            if engine not in taken_away and has_url_file(engine):
                mode = Mode.READ_WRITE if name.startswith("read_write") else Mode.READ_ONLY
                self._renewed[mode].append(self._protected[engine])
        if has_url_file(given["read_write.primary"]):
            self._renewed[Mode.READ_WRITE] += [one for one in self._twins if one not in taken_away]

    def _use(self, *, used: bool = True) -> None:
        """Note whether these are engines of the selector, or were replaced, or given back."""
        for door in self.doors:
            protection.use(door.engine, self, used=used)

    def _earlier(self) -> Iterator[GuardedEngines]:
        one = self._before
        while one is not None:
            yield one
            one = one._before

    # -- what the server says ------------------------------------------------------------

    def _answer(self, primary: Engine, server_read_only: str) -> None:
        if server_read_only == "flip" and family(primary.dialect) in PROBED:
            self.server = ServerSwitch(
                self._switch,
                partial(shown, primary),
                shut=self._shut_for_server,
                reopen=self._open_for_server,
                may_write=self._may_write,
            )
        if server_read_only != "error":
            protection.answer(primary, self, self._server_says_no)

    @property
    def closed_by_server(self) -> bool:
        """True if the engines that are in place are read-only by the word of their server."""
        server = self._last().server
        return server is not None and server.known.read_only

    def _server_says_no(self) -> None:
        if self.server is not None:
            self.server.turn()
            self.sweep()

    def _shut_for_server(self) -> None:
        self._gate_by_server(protection.gate, partial(protection.protect, serves=False))
        for door in self.doors:
            door.shut(self.server)

    def _open_for_server(self) -> None:
        self._gate_by_server(
            partial(protection.release, gated=True, protected=False),
            partial(protection.release, gated=False, protected=True),
        )
        for door in self.doors:
            door.open(self.server)

    def _gate_by_server(
        self, gate: Callable[[Engine, Switch], None], protect: Callable[[Engine, Switch], None]
    ) -> None:
        if self.server is not None:
            for door in self.doors:
                if not isinstance(door.engine, TwinEngine):  # it has the gates of its engine
                    gate(door.engine, self.server)
            for engine in self._protected:
                protect(engine, self.server)

    def _may_write(self) -> bool:
        door = self.doors[0]  # of the read-write primary
        read_again(door.engine)  # the one that takes writes now may be another server
        ask = partial(door.ask, may_write, but=self.server)
        is_async = door.engine.dialect.is_async
        return bool(loops.on_a_loop(ask, 2 * LONGEST) if is_async else ask())

    # -- flips ---------------------------------------------------------------------------

    def turn(self, state: State) -> None:
        """Shut the doors, or open them: the gate that the switch calls at a flip.

        :raises sqlalchemy.exc.InvalidRequestError: at the first call, if these engines are to take
            the place of others, and it is read-write.
        """
        before = self._before
        if self._released:  # an interrupt may have kept the selector from saying so to the switch
            return
        waits = before is not None and before._after is None
        if waits and not state.read_only:
            raise InvalidRequestError(NOT_READ_ONLY)
        if state.read_only:
            self._shut()
        else:
            self._open()
        if waits:
            self._take_place()
        if self._mode not in (None, state.mode):
            self._renew(state.mode)
        self._mode = state.mode

    def _take_place(self) -> None:
        before = self._before
        if before is not None:
            before._after = self
            before._use(used=False)
            for role in ROLES:
                self.routes[role][Mode.READ_WRITE] = self._own[role][Mode.READ_WRITE]

    def _shut(self) -> None:
        if self._after is not None:  # what it limited stays so
            for door in self.doors:
                door.shut(self)
            return
        if self._deadline is None:
            self._deadline = math.inf if self._grace is None else time.monotonic() + self._grace
        limit = Limit(self._deadline, reads=self._switch.overridden)
        for door in self.doors:
            door.shut(self, limit=limit)

    def _open(self) -> None:
        for reader in self._protected.values():
            reader.let_go()
        if self._after is not None:
            self._stay_shut()
            return
        for door in self.doors:
            door.open(self)
        self._deadline = None
        for role in ROLES:
            self.routes[role][Mode.READ_ONLY] = self._own[role][Mode.READ_ONLY]
        self.facts = self.engines["read_write.primary"]

    def _stay_shut(self) -> None:
        """Keep shut what was replaced: what still has such an engine would write where none reads.

        Not what is in use again, here or by another selector.
        """
        for door in self.doors:
            if not protection.is_used(door.engine):
                door.shut(self, refuse=self._refuse)
            elif isinstance(door.engine, TwinEngine):  # not picked any more
                door.shut(self)
            else:
                door.open(self)

    def _renew(self, mode: Mode) -> None:
        """Open the pools anew that no door opens, of engines whose URL may have changed."""
        for renewed in self._renewed[mode]:
            renewed.renew()

    def _last(self) -> GuardedEngines:
        one = self
        while one._after is not None:
            one = one._after
        return one

    def _refuse(self) -> ReadOnlyError:
        what = "A read-write connection"
        error = ReadOnlyError(
            f"{what} is refused: its engine was replaced by EngineSelector.replace(). Nothing was "
            "written. Use a session of the selector, or selector.engine(); or give this engine to "
            "replace() again."
        )
        refusals.record(error, what, kind="connection", switch=self._switch)
        return error

    def settle(self, state: State) -> None:
        """After a flip: close what is idle of the pools that it left, where no door does that.

        What was replaced gives up the memory that it has no use for, too.
        """
        for renewed in self._renewed[state.mode]:
            renewed.close_old()
        if self._after is None or state.read_only:
            return
        last = self._last()
        used = set(last.engines.values())
        gated = {door.engine for door in self.doors}
        for door in self.doors:
            if door not in last.doors:  # it is kept for long, and its cache is nearly all of it
                door.engine.clear_compiled_cache()
        left: list[Reader | TwinEngine] = [twin for twin in self._twins if twin not in gated]
        left += [self._protected[one] for one in self._protected if one not in used | gated]
        for one in left:
            one.renew()
            one.close_old()

    def settle_server(self, state: State) -> None:
        """After a flip by the server: do for URLs in files what a flip of the switch does."""
        self._renew(state.mode)
        self.settle(state)

    def sweep(self) -> None:
        """Close what lies idle in the retired pools."""
        for door in self.doors:
            door.sweep()

    # -- the end -------------------------------------------------------------------------

    def release(self) -> None:
        """Give the engines back as they were. The twins go on being read-only."""
        self._released = True
        self._use(used=False)
        before = self._before
        if before is not None and before._after is self:
            before._after = None
            before._use(used=not before._released)
            for role in ROLES:
                self.routes[role][Mode.READ_WRITE] = before._own[role][Mode.READ_WRITE]
        if self.doors:
            protection.answer(self.doors[0].engine, self, None)
        if self.server is not None:
            self.server.close()
        for reader in self._protected.values():
            reader.let_go()
        for door in self.doors:
            door.open(self)
        for engine in dict.fromkeys((*self._gated, *self._protected)):
            protected = engine in self._protected
            gated = engine in self._gated
            protection.release(engine, self._switch, gated=gated, protected=protected)
            if protected and not guard.read_only(engine):
                self._protected[engine].unlock()
        self.sweep()

    def dispose_twins(self) -> None:
        """Close the twins' connections: nothing is picked any more."""
        for twin in self._twins:
            twin.dispose()
