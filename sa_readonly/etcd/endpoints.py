"""All members of etcd: which of them is asked, and which next if it does not answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..mode import clock
from .addresses import Trust
from .connections import Endpoint, Stream
from .errors import EtcdError, Leaderless, Unreachable

__all__ = ["Endpoints"]

T = TypeVar("T")

PATIENCE = 3.0  # seconds for one member at most, while there is another one to ask


class Endpoints:
    """All members: the one that answered last is asked first.

    :param urls: as :func:`parse` returns them.
    :param tls: for https.
    """

    def __init__(self, urls: list[str], tls: Trust | None) -> None:
        self._all = [Endpoint(url, tls) for url in urls]
        self._first = random.randrange(len(urls))  # noqa: S311  # spreads workers over the members

    def ask(
        self,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
        *,
        again: bool = True,
    ) -> dict[str, Any]:
        """Send a request to one member after the other, until one answers.

        :param again: whether a request that may have been done may be sent again.
        :raises Unreachable: if none does in time.
        :raises EtcdError: if the answer is an error.
        """
        return self._until_answered(
            lambda endpoint, end: endpoint.ask(path, body, headers, end), deadline, again=again
        )

    def stream(self, path: str, body: bytes, headers: Mapping[str, str], deadline: float) -> Stream:
        """Begin an answer without an end, at the first member that begins it."""
        return self._until_answered(
            lambda endpoint, end: endpoint.stream(path, body, headers, end), deadline, again=True
        )

    def _until_answered(
        self, ask: Callable[[Endpoint, float], T], deadline: float, *, again: bool
    ) -> T:
        pause = 0.0
        while True:
            failures: list[Unreachable] = []
            order = self._all[self._first :] + self._all[: self._first]
            for number, endpoint in enumerate(order):
                now, left = clock(), len(order) - number
                # One that is silent leaves time for the others.
                end = now + min((deadline - now) / left, PATIENCE) if left > 1 else deadline
                try:
                    answer = ask(endpoint, end)
                except Unreachable as error:
                    failures.append(error)
                    if error.may_be_done and not again:
                        raise
                except EtcdError:
                    self._first = self._all.index(endpoint)
                    raise
                else:
                    self._first = self._all.index(endpoint)
                    return answer
            # A cluster that changes its leader is asked again at once; then it needs some time.
            changing = [error for error in failures if isinstance(error, Leaderless)]
            if not changing or clock() + pause >= deadline:
                if len(failures) == 1:
                    raise failures[0]
                raise _summed_up(failures) from failures[-1]
            time.sleep(pause)
            pause = min(0.2, pause * 2 + 0.02)

    def each(self) -> list[Endpoint]:
        """All members, in the order in which they were given."""
        return list(self._all)

    def close(self) -> None:
        """Close all idle connections."""
        for endpoint in self._all:
            endpoint.close()

    def forked(self) -> None:
        """In a forked child: nothing of the parent's is used, nor ended."""
        for endpoint in self._all:
            endpoint.forked()
        self._first = random.randrange(len(self._all))  # noqa: S311  # as above


def _summed_up(failures: list[Unreachable]) -> Unreachable:
    return type(failures[-1])(
        "No member of etcd answered. " + " ".join(str(error) for error in failures),
        code=failures[-1].code,
        may_be_done=any(error.may_be_done for error in failures),
    )
