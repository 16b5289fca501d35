"""Waiting for hosts that each have a file and workers of their own, by their status pages.

A host is in the awaited mode when its page says so: a page made for this very request, by a process
that is registered. All hosts must be in it at one moment. So when they are, all are asked once
more, and each must answer for the same file as before. A host of which that is not known is not in
it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

from ..mode import Mode
from ..workers.status import lasting
from .fleet import Fleet
from .hosts import Target
from .status_page import NOBODY_THERE, StatusPage
from .waiting import HOLDS, NOBODY, NOT_YET, Progress, Wait, shortened

_BY_TURNS = (
    "several hosts answer there by turns, as behind a load balancer. Ask each by its own name or "
    "address"
)


@dataclass(frozen=True)
class Host:
    """A host, judged by its page.

    :param called: what people call it.
    :param url: the page that was asked for.
    :param why: why it is not in the awaited mode, or None.
    :param page: what its page told, or None without one.
    """

    called: str
    url: str
    why: str | None = None
    page: StatusPage | None = None

    @property
    def mode(self) -> Mode | None:
        """Its mode, or None if that is not known."""
        return None if self.page is None else self.page.mode

    @property
    def drained(self) -> bool:
        """True if each of its workers is drained."""
        return self.why is None and self.mode is Mode.READ_ONLY

    @property
    def number(self) -> int | None:
        """How many workers are registered there, or None if that is not known."""
        return None if self.page is None else self.page.sums["workers"]

    @property
    def identity(self) -> tuple[object, ...]:
        """What differs after a restart of the host, or once another file is there."""
        page = self.page
        return (self.called, page and page.registry, page and page.generation)

    @property
    def lasting(self) -> tuple[object, ...]:
        """Equal in two rounds between which nothing happened, though time has passed."""
        sums = () if self.page is None else tuple(self.page.sums.values())
        return (self.called, self.mode, lasting(self.why or ""), sums)

    def as_json(self) -> dict[str, object]:
        """Return it as what :mod:`json` takes."""
        page = self.page
        return {
            "host": self.called,
            "url": self.url,
            "why": self.why,
            "drained": self.drained,
            "mode": page and str(page.mode),
            "reason": page and page.reason,
            "until": page and page.until,
            "generation": page and page.generation,
            "registry": page and page.registry,
            "sums": page and page.sums,
        }


@dataclass(frozen=True)
class FleetProgress(Progress):
    """What one round found, by hosts.

    :param hosts: each of them.
    :param expected_hosts: how many there must be, or None.
    """

    _: KW_ONLY
    hosts: tuple[Host, ...] = ()
    expected_hosts: int | None = None

    @property
    def tally(self) -> str:
        """How many hosts are in the awaited mode, of how many."""
        return f"{sum(host.why is None for host in self.hosts)} of {len(self.hosts)} hosts"

    @property
    def lasting(self) -> tuple[object, ...]:
        """Equal in two rounds between which nothing happened, though time has passed."""
        return (*super().lasting, *(host.lasting for host in self.hosts))

    def _count(self) -> str:
        if self.code == NOBODY:
            names = ", ".join(shortened([host.called for host in self.hosts if host.why]))
            return f"nobody is registered on {names}"
        groups = _groups(self.hosts)
        hosts = f"{len(groups)} host{'' if len(groups) == 1 else 's'}"
        return f"{hosts}{_same(groups)}, {super()._count()}"

    def _proviso(self) -> str:
        if self.expected_hosts is None:
            return (
                " (only the addresses that the name has are known; --expect-hosts N tells how many "
                "there must be)"
            )
        return super()._proviso()

    def _whys(self) -> list[str]:
        if self.moved:
            return [self.problem or ""]
        whys = [] if self.problem is None else [self.problem]
        whys += shortened([f"{host.called}: {host.why}" for host in self.hosts if host.why])
        groups = _groups(self.hosts)
        if self.expected_hosts is not None and len(groups) < self.expected_hosts:
            known = f"{len(groups)} of {self.expected_hosts} expected hosts are known"
            whys.append(known + _same(groups))
        if not whys and self.expected is not None and self.settled < self.expected:
            whys.append(f"{self.settled} of {self.expected} expected workers are registered")
        return whys or ["a file was replaced meanwhile, or a host restarted"]


def _groups(hosts: Iterable[Host]) -> list[list[str]]:
    """Return the names of each host. Names that lead to the same workers are one host."""
    groups: dict[object, list[str]] = {}
    for host in hosts:
        registry = None if host.page is None else host.page.registry
        groups.setdefault(registry or host, []).append(host.called)
    return list(groups.values())


def _same(groups: Iterable[list[str]]) -> str:
    """Tell which names are those of one host."""
    same = [" and ".join(shortened(group)) + " are one" for group in groups if len(group) > 1]
    return f" ({'; '.join(shortened(same))})" if same else ""


@dataclass
class FleetWait(Wait):
    """A wait for the workers of every host.

    :param fleet: the hosts.
    :param expect_hosts: how many hosts there must be, or None: as many as are named. Two that
        answer for the same workers are one.
    """

    pause: ClassVar[float] = 1.0  # each host notes a request in its log
    patience: ClassVar[float] = 1.0
    """Seconds after which a round goes on without the hosts that have not answered."""

    fleet: Fleet
    expect_hosts: int | None = None
    _registries: dict[Target, list[str]] = field(default_factory=dict, repr=False, init=False)
    _by_turns: set[Target] = field(default_factory=set, repr=False, init=False)
    _were_there: set[Target] = field(default_factory=set, repr=False, init=False)

    def as_json(self) -> dict[str, object]:
        """Return the hosts as what :mod:`json` takes."""
        hosts = self.progress.hosts if isinstance(self.progress, FleetProgress) else ()
        return {
            "url": self.fleet.url,
            "hosts": [host.as_json() for host in hosts],
            "expected_hosts": self.expected_hosts,
        }

    @property
    def expected_hosts(self) -> int | None:
        """How many hosts there must be, or None: that is not known."""
        return self.fleet.named if self.expect_hosts is None else self.expect_hosts

    @property
    def expects(self) -> bool:
        """True if a number of workers or of hosts is expected."""
        return super().expects or self.expect_hosts is not None

    @property
    def reads_twice(self) -> bool:
        """True: what one host told first may have ended before another one told it."""
        return True

    def _read(self, *, again: bool = False) -> FleetProgress:
        left = self.began + self.timeout - time.monotonic()
        # The last round, and the second reading, which counts, wait for every page.
        patience = self.fleet.limit if again or left <= self.patience else self.patience
        pages, problem = self.fleet.ask(patience)
        turned_back = self._turned_back(pages)
        if turned_back:
            problem = f"{', '.join(shortened(turned_back))}: somebody has turned it back meanwhile"
        hosts = tuple(self._judged(target, page) for target, page in pages)
        settled = _workers(hosts)
        whys = [host.why for host in hosts if host.why is not None]
        code = NOT_YET
        if problem is None and hosts:
            enough = len(_groups(hosts)) >= (self.expected_hosts or 0)
            enough = enough and settled >= (self.expect or 0)
            if not whys and enough:
                code = HOLDS
            elif whys and set(whys) == {NOBODY_THERE}:
                code = NOBODY
        dead = sum(host.page.sums["died_without_a_word"] for host in hosts if host.page)
        return FleetProgress(
            code,
            tuple(host.identity for host in hosts),
            settled=settled,
            problem=problem,
            moved=bool(turned_back),
            died=dead if self.ignore_dead else 0,
            hosts=hosts,
            expected_hosts=self.expected_hosts,
        )

    def _turned_back(self, pages: list[tuple[Target, StatusPage | str]]) -> list[str]:
        """Return the hosts that are in the other mode after they were in the awaited one."""
        turned_back = []
        for target, page in pages:
            if isinstance(page, StatusPage):
                if page.mode is not self.mode and target in self._were_there:
                    turned_back.append(target.called)
                elif page.mode is self.mode and page.by_file:
                    self._were_there.add(target)
        return turned_back

    def _judged(self, target: Target, page: StatusPage | str) -> Host:
        if isinstance(page, str):
            return Host(target.called, target.url, page)
        why = page.why_not(self.mode, ignore_dead=self.ignore_dead)
        if self._answers_by_turns(target, page):
            why = _BY_TURNS
        return Host(target.called, target.url, why, page)

    def _answers_by_turns(self, target: Target, page: StatusPage) -> bool:
        """True if one host answers there, then another, then the first again.

        A restart does not do that: what answered before it never comes back.
        """
        if page.registry is not None:
            registries = self._registries.setdefault(target, [])
            if page.registry not in registries:
                registries.append(page.registry)
            elif page.registry != registries[-1]:
                self._by_turns.add(target)
        return target in self._by_turns


def _workers(hosts: Iterable[Host]) -> int:
    """Count the living workers of the hosts in the awaited mode; of names of one host, once."""
    counts: dict[object, int] = {}
    for host in hosts:
        if host.page is not None and host.why is None:
            key = host.page.registry or host
            counts[key] = max(counts.get(key, 0), host.page.sums["settled"])
    return sum(counts.values())
