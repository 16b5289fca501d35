"""The one way into this wing: a selector hands its engines over, and gets back what it picks from.

Each engine goes down through the rooms once. It is taken away while read-only (gated, with a door),
or protected (read-only in both modes, with a reader), or both; and where a read-only engine is
missing, a twin is made.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from ..mode import Mode
from . import guard, protection
from .doors import Door
from .guard import Limit
from .pools import holds_database
from .readers import Reader, TwinEngine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Engine

    from ..mode import State, Switch

__all__ = ["ROLES", "GuardedEngines"]

ROLES = ("primary", "replica")


class GuardedEngines:
    """The engines of one selector, guarded until :meth:`release`.

    :param switch: what tells the mode.
    :param given: the engines by their names: ``"read_write.primary"`` and, as far as they were
        given, ``"read_write.replica"``, ``"read_only.primary"`` and ``"read_only.replica"``.
    :param grace: seconds for which what has begun may go on after a flip; None sets no limit.
    :param pooler: one of :data:`.poolers.POOLERS`, or None.
    """

    routes: Mapping[str, Mapping[Mode, Engine]]
    """The engine by role and mode."""

    engines: Mapping[str, Engine]
    """The same by name. An engine may have several names; what counts goes by the first."""

    doors: list[Door]
    """The doors of the engines that are taken away while read-only."""

    def __init__(
        self,
        switch: Switch,
        given: Mapping[str, Engine],
        *,
        grace: float | None = None,
        pooler: str | None = None,
    ) -> None:
        self._switch = switch
        self._grace = grace
        self._deadline: float | None = None  # while read-only
        self._gated: list[Engine] = []
        self._protected: dict[Engine, Reader] = {}
        self._twins: list[TwinEngine] = []
        self.doors = []
        try:
            self._take_over(given, pooler)
        except BaseException:
            self.release()
            raise

    def _take_over(self, given: Mapping[str, Engine], pooler: str | None) -> None:
        switch = self._switch
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
        for engine in taken_away:
            protection.gate(engine, switch)
            self._gated.append(engine)
        for engine in protected:
            new = not guard.read_only(engine)
            protection.protect(engine, switch, serves=engine is replica)
            self._protected[engine] = Reader.of(engine)
            if new:
                self._protected[engine].lock()
                protection.warn(engine)

        # Twins: one in the place of read_only, or one for the role "replica" where there is none.
        serving = replica or primary
        if reading is None or (serving is primary and not holds_database(primary)):
            twin = self._twin(primary, gated=reading is not None)
            self._twins.append(twin)
            if serving is primary:
                serving = twin
            if reading is None:
                protection.warn(primary)
                reading, reading_replica = twin, replica or twin
            else:
                taken_away.append(twin)
        self.doors = [Door.of(engine) for engine in taken_away]
        self.routes = {
            "primary": {Mode.READ_WRITE: primary, Mode.READ_ONLY: reading},
            "replica": {Mode.READ_WRITE: serving, Mode.READ_ONLY: reading_replica or reading},
        }
        self.engines = {
            f"{name}.{role}": self.routes[role][mode]
            for role in ROLES
            for name, mode in (("read_write", Mode.READ_WRITE), ("read_only", Mode.READ_ONLY))
        }

    def _twin(self, engine: Engine, *, gated: bool) -> TwinEngine:
        return TwinEngine(engine, gated=gated)

    @property
    def sets(self) -> list[Mapping[str, Engine]]:
        """The engines by name, as :class:`.workers.counts.Member` has them: one set of them."""
        return [self.engines]

    def rest(self) -> None:
        """Do nothing: it is closed by the selector."""

    def turn(self, state: State) -> None:
        """Shut the doors, or open them: the gate that the switch calls at a flip."""
        if not state.read_only:
            self._open()
            return
        if self._deadline is None:
            self._deadline = math.inf if self._grace is None else time.monotonic() + self._grace
        limit = Limit(self._deadline, reads=self._switch.overridden)
        for door in self.doors:
            door.shut(self, limit=limit)

    def _open(self) -> None:
        for reader in self._protected.values():
            reader.let_go()
        for door in self.doors:
            door.open(self)
        self._deadline = None

    def sweep(self) -> None:
        """Close what lies idle in the retired pools."""
        for door in self.doors:
            door.sweep()

    def release(self) -> None:
        """Give the engines back as they were. The twins go on being read-only."""
        self._open()
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
