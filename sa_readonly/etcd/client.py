"""A client of etcd's JSON gateway: each request has a deadline, whatever the servers do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .. import forks
from ..errors import ConfigurationError, seconds
from ..mode import clock
from .addresses import Trust, parse
from .connections import Endpoint
from .endpoints import Endpoints
from .errors import INVALID, UNAUTHENTICATED, Denied, EtcdError, NotFound
from .login import Login
from .values import (
    Alarm,
    Answer,
    Compare,
    Lease,
    Member,
    Op,
    TxnAnswer,
    answer_of,
    delete_op,
    get_op,
    number,
    put_op,
    span,
    txn_answer_of,
    txn_of,
)
from .watch import HEADERS, Watch, asked

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """A client of all members of one etcd, for all threads of a process and its forked children.

    A member that does not answer in its share of the time is left for the next one. A request that
    only reads is sent to the next one in any case; one that writes only if nothing of it was sent,
    since it may still be done: then it raises :class:`~sa_readonly.etcd.errors.Unreachable`.
    All methods raise :class:`~sa_readonly.etcd.errors.EtcdError` and its subclasses.

    :param urls: ``"https://a:2379,https://b:2379"``, or a sequence of such; 2379 is the port where
        none is given.
    :param ca: a file with the certificates that are trusted; None trusts those of the system.
    :param cert: a file with a client certificate, without a CommonName if users are given.
    :param cert_key: a file with its key, if it is not in the same one.
    :param user: a user of etcd, with ``password``.
    :param timeout: seconds for one request, whatever it needs: connecting, a login, all members.
    :raises ConfigurationError: if one of them makes no sense.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        ca: str | None = None,
        cert: str | None = None,
        cert_key: str | None = None,
        user: str | None = None,
        password: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        self._urls = parse(urls)
        self._timeout = seconds("timeout", timeout)
        if not self._timeout:
            raise ConfigurationError("timeout= of etcd is 0 s, in which nothing is answered.")
        files = (ca, cert, cert_key)
        tls = None
        if self._urls[0].startswith("https:"):
            tls = Trust(*files)
        elif files != (None, None, None):
            raise ConfigurationError(
                "ca=, cert= and cert_key= are for https, and the URLs of etcd are of http."
            )
        self._endpoints = Endpoints(self._urls, tls)
        if (user is None) != (password is None):
            raise ConfigurationError(
                "user= and password= of etcd are given together or not at all."
            )
        self._login: Login | None = None
        if user is not None and password is not None:
            self._login = Login(self._endpoints, user, password)
        forks.subscribe(in_child=self._forked)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {','.join(self._urls)}>"

    def _forked(self) -> None:
        self._endpoints.forked()
        if self._login is not None:
            self._login.forked()

    # -- keys --

    def get(self, key: str, *, revision: int | None = None, timeout: float | None = None) -> Answer:
        """Read one key, as the majority of the members knows it.

        :param revision: reads what was there at that revision, as :meth:`range` does.
        """
        return answer_of(self._ask("/v3/kv/range", get_op(key, revision=revision).body, timeout))

    def range(
        self,
        prefix: str,
        *,
        revision: int | None = None,
        keys_only: bool = False,
        timeout: float | None = None,
    ) -> Answer:
        """Read all keys that begin with a prefix, as the majority of the members knows them.

        :param revision: reads what was there at that revision.
        :param keys_only: leaves out the values.
        :raises Compacted: if that revision is no longer kept.
        :raises FutureRevision: if it has not been yet.
        """
        op = get_op(prefix, prefix=True, revision=revision, keys_only=keys_only)
        return answer_of(self._ask("/v3/kv/range", op.body, timeout))

    def txn(
        self,
        compare: Sequence[Compare],
        success: Sequence[Op],
        failure: Sequence[Op] = (),
        *,
        timeout: float | None = None,
    ) -> TxnAnswer:
        """Do all operations of one branch, or none, at one revision.

        :raises Full: if etcd has no space left and one of the branches puts something. Some
            versions refuse each transaction then, also one that only reads.
        """
        reads = not any(op.writes for op in (*success, *failure))
        body = txn_of(compare, success, failure)
        return txn_answer_of(self._ask("/v3/kv/txn", body, timeout, again=reads))

    def put(
        self,
        key: str,
        value: str | bytes,
        *,
        lease: int | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Write one key.

        :raises NotFound: if the lease is gone.
        """
        body = put_op(key, value, lease=lease).body
        return answer_of(self._ask("/v3/kv/put", body, timeout, again=False))

    def delete(
        self,
        key: str,
        *,
        prefix: bool = False,
        prev: bool = False,
        timeout: float | None = None,
    ) -> Answer:
        """Delete one key, or all that begin with it; ``deleted`` of the answer is their number."""
        body = delete_op(key, prefix=prefix, prev=prev).body
        return answer_of(self._ask("/v3/kv/deleterange", body, timeout, again=False))

    def watch(
        self,
        key: str,
        *,
        prefix: bool = False,
        start_revision: int | None = None,
        timeout: float | None = None,
    ) -> Watch:
        """Begin to watch one key, or all that begin with it; it has begun when this returns.

        :param start_revision: of the first change that is told; None begins now.
        """
        keys = span(key, prefix=prefix)
        body, deadline = asked(keys, start_revision), self._deadline(timeout)

        def begun(token: dict[str, str]) -> Watch:
            headers = {**HEADERS, **token}
            return Watch(self._endpoints.stream("/v3/watch", body, headers, deadline), deadline)

        try:
            return self._with_token(begun, deadline)
        except Denied:
            if self._login is None:
                raise
        # A watch is refused in the same words where the token has expired. A read tells, and logs
        # in anew.
        self._ask("/v3/kv/range", {**keys, "limit": "1", "keys_only": True}, deadline - clock())
        return self._with_token(begun, deadline)

    # -- leases --

    def grant(self, ttl: int, *, timeout: float | None = None) -> Lease:
        """Make a lease of at least ``ttl`` seconds."""
        told = self._ask("/v3/lease/grant", {"TTL": str(ttl)}, timeout)
        return Lease(number(told, "ID"), number(told, "TTL"))

    def keepalive(self, lease_id: int, *, timeout: float | None = None) -> int:
        """Renew a lease, and return its seconds; 0 if it is gone."""
        told = self._ask("/v3/lease/keepalive", {"ID": str(lease_id)}, timeout)
        return number(told.get("result", {}), "TTL")

    def revoke(self, lease_id: int, *, timeout: float | None = None) -> None:
        """End a lease, and delete its keys; nothing is done if it is gone."""
        try:
            self._ask("/v3/lease/revoke", {"ID": str(lease_id)}, timeout)
        except NotFound:
            return

    # -- the members --

    def members(self, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Ask each member how it is, one after the other.

        :param timeout: seconds for each of them.
        """
        forks.follow()
        return tuple(
            self._member(endpoint, self._deadline(timeout)) for endpoint in self._endpoints.each()
        )

    def alarms(self, *, timeout: float | None = None) -> tuple[Alarm, ...]:
        """Return the alarms of all members: with NOSPACE nothing can be put."""
        told = self._ask("/v3/maintenance/alarm", {"action": "GET"}, timeout)
        return tuple(
            Alarm(number(alarm, "memberID"), str(alarm.get("alarm", "NONE")))
            for alarm in told.get("alarms", ())
        )

    def _member(self, endpoint: Endpoint, deadline: float) -> Member:
        try:
            told = self._with_token(
                lambda token: endpoint.ask("/v3/maintenance/status", b"{}", token, deadline),
                deadline,
            )
        except EtcdError as error:
            return Member(endpoint.url, str(error))
        try:
            health = endpoint.ask("/health", None, {}, deadline)
            trouble = "" if health.get("health") == "true" else str(health.get("reason", health))
        except EtcdError as error:
            trouble = str(error)
        return Member(
            endpoint.url,
            trouble,
            str(told.get("version", "")),
            number(told.get("header", {}), "member_id"),
            number(told, "leader"),
            number(told, "dbSize"),
            number(told, "dbSizeInUse"),
        )

    # -- the end --

    def close(self) -> None:
        """Close the connections that are not in use. It can be used again."""
        self._endpoints.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- how it is asked --

    def _deadline(self, timeout: float | None) -> float:
        return clock() + (self._timeout if timeout is None else timeout)

    def _ask(
        self, path: str, body: Any, timeout: float | None = None, *, again: bool = True
    ) -> dict[str, Any]:
        sent = json.dumps(body).encode()
        deadline = self._deadline(timeout)
        return self._with_token(
            lambda token: self._endpoints.ask(path, sent, token, deadline, again=again), deadline
        )

    def _with_token(self, ask: Callable[[dict[str, str]], T], deadline: float) -> T:
        """Ask, and once more after a login if etcd has forgotten the token, or wants one now."""
        forks.follow()
        login = self._login
        if login is None:
            return _or_denied(ask, {})
        token = login.token(deadline)
        try:
            return ask(_header(token))
        except EtcdError as error:
            if error.code not in (UNAUTHENTICATED, INVALID):
                raise
            # INVALID is a missing token, and one that was overtaken by a change of the rights.
            if error.code == UNAUTHENTICATED or not token:
                login.forget(token)
        return _or_denied(ask, _header(login.token(deadline)))


def _header(token: str) -> dict[str, str]:
    return {"Authorization": token} if token else {}


def _or_denied(ask: Callable[[dict[str, str]], T], token: dict[str, str]) -> T:
    try:
        return ask(token)
    except EtcdError as error:
        # INVALID is that of any request that makes no sense, too; the text says which.
        nameless = error.code == INVALID and "user name" in str(error)
        if error.code != UNAUTHENTICATED and not nameless:
            raise
        cure = "Check the user's name and password." if token else "Give user= and password=."
        raise Denied(f"{error} {cure}", code=error.code) from error
