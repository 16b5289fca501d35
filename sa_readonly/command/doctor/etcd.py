"""A fleet on etcd: its members, what a user may do there, the marker, certificates, compaction."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from ...errors import ConfigurationError
from ...etcd.addresses import Trust, parse
from ...etcd.entry import owner_of
from ...etcd.errors import Compacted, Denied, EtcdError, Full
from ...etcd.records import Store, marker_of
from ...etcd.registry import read
from ...etcd.values import Member, created, put_op
from ..etcd_place import opened
from ..operate import keyed
from ..options import Where
from ..probe import UnreachableError
from .findings import Finding, danger, listed, note, ok, warning

_REQUEST = 5.0  # seconds for a request
_NEVER = 2**62  # a revision that no key has
_MANY = 10_000  # revisions without a compaction
# In DER: the extension "extended key usage", and the usage clientAuth in it.
_USAGE, _CLIENT = bytes.fromhex("0603551d25"), bytes.fromhex("06082b06010505070302")


def examine_etcd(where: Where, ttl: float = 1.0) -> Iterator[Finding]:
    """Examine etcd as the workers or an operator find it. Nothing is written.

    :param where: how it is asked.
    :param ttl: that of the workers' switch, in seconds.
    :raises UnreachableError: if it can't be asked.
    """
    store = opened(keyed(where))
    certificates = list(_certificates(where))
    yield from certificates
    try:
        users = _has_users(where)
        yield from _members(store.client.members(timeout=_REQUEST))
        yield from _alarms(store)
        yield from _protection(where, users=users)
        if users:
            yield from _rights(store, where)
        yield from _marker(store, ttl)
        yield from _compaction(store)
    except EtcdError as error:
        if "CommonName" in str(error):
            yield warning(
                "etcd-client-certificate-has-name",
                f"etcd refuses the client certificate {where.cert}: it has a CommonName.",
                "While etcd has users its gateway takes no such certificate, so that no process "
                "can ask it: all are read-only.",
                "Issue one without a CommonName.",
            )
        elif not certificates:  # which tell why
            raise UnreachableError(f"etcd can't be examined: {error}") from None


# -- members ---------------------------------------------------------------------------------


def _members(members: tuple[Member, ...]) -> Iterator[Finding]:
    troubled = [one for one in members if one.trouble]
    for one in troubled:
        yield warning(
            "etcd-member-can-not-serve",
            f"{one.url} can't serve: {one.trouble}",
            "Where a majority of the members is away, each process turns read-only once its fence "
            "is over.",
            "Is it down, or is its URL wrong? Where no member answers with --client-cert-auth: see "
            "the usage of the server's certificate.",
        )
    served = [one for one in members if not one.trouble]
    versions = sorted({one.version for one in served})
    if len(versions) > 1:
        yield note(
            "etcd-versions-differ",
            f"The members have different versions: {', '.join(versions)}.",
            "An upgrade that is not finished, or URLs of two clusters.",
            "Finish the upgrade; compare the URLs.",
        )
    leaders = {one.leader for one in served}
    if len(leaders) > 1:
        yield danger(
            "etcd-two-clusters",
            f"The members follow different leaders: {listed([one.url for one in served])}.",
            "Two clusters, or an election just now. With two, a process may look at the one where "
            "the key is not.",
            "Run the doctor again; if it stays, give the URLs of one cluster alone.",
        )
    if len(members) == 1:
        yield note(
            "etcd-one-url",
            f"One URL is given: {members[0].url}.",
            "While that member is away each process turns read-only once its fence is over.",
            "Give all members of a cluster of three or five.",
        )
    if served and not troubled:
        yield ok(
            "etcd-members-serve",
            f"{len(served)} of {len(members)} members serve, version {listed(versions)}.",
            "A look is answered by a majority.",
        )


def _alarms(store: Store) -> Iterator[Finding]:
    try:
        alarms = store.client.alarms(timeout=_REQUEST)
    except Denied:  # in some versions it is for root alone; a member's health tells it, too
        return
    for one in alarms:
        yield warning(
            "etcd-alarm",
            f"Member {one.member_id:x} has raised the alarm {one.kind}.",
            "A full etcd lets `off` through, but no `on`, no acknowledgement and no registration: "
            "processes that are started stay read-only.",
            "etcdctl compact REVISION, etcdctl defrag, and then etcdctl alarm disarm.",
        )


# -- users and their rights ------------------------------------------------------------------


def _has_users(where: Where) -> bool:
    options = {"ca": where.ca, "cert": where.cert, "cert_key": where.cert_key}
    try:
        nameless = _nameless(where, **options)
        nameless.client.get(nameless.key, timeout=_REQUEST)
    except Denied:
        return True
    return False


def _nameless(where: Where, **options: Any) -> Store:
    """Return the same key, asked without a user, whatever the environment has."""
    from ...etcd.client import Client  # noqa: PLC0415  # it needs urllib3, which is an extra

    urls = parse(where.etcd)
    return Store(Client(urls, **options), where.key, urls)


def _protection(where: Where, *, users: bool) -> Iterator[Finding]:
    plain = str(where.etcd).startswith("http:")
    if plain:
        yield warning(
            "etcd-without-tls",
            "etcd is asked without TLS.",
            "What is between can read passwords and answer in its place: the key is not there.",
            "Serve https, and give --ca.",
        )
    if users:
        return
    if where.cert is None:
        yield danger(
            "etcd-open-to-all",
            "etcd asks for no user, and no client certificate is given.",
            "Each process that reaches it can delete the key, and the application writes again in "
            "the middle of your upgrade.",
            "Make users, and `etcdctl auth enable`: docs/fleet.md has the commands.",
        )
    else:
        yield warning(
            "etcd-without-users",
            "etcd asks for no user.",
            "Each holder of a client certificate can delete the key, the application's processes "
            "too.",
            "Make users, and `etcdctl auth enable`: docs/fleet.md has the commands.",
        )


def _rights(store: Store, where: Where) -> Iterator[Finding]:
    """Try each right by a transaction that does nothing: its comparison never holds."""
    user = f"User {where.user} of etcd"
    own = f"{store.workers}{owner_of(where.user)}-"
    writes = {name for name in (store.key, store.marker) if _may_write(store, name)}
    if writes:
        lacking = [name for name in (store.key, store.marker) if name not in writes]
        for name in (store.workers, store.announced, store.history):
            readable = _may_read(store, name, prefix=name.endswith("/"))
            if not (readable and _may_write(store, name)):
                lacking.append(name)
        yield note(
            "etcd-user-can-flip",
            f"{user} may write {', '.join(sorted(writes))}.",
            "It is an operator's. If it is the application's, the application can flip itself.",
            "Give the application a user of its own, and run the doctor as that, too.",
        )
        if lacking:
            yield warning(
                "etcd-operator-rights-missing",
                f"{user} may not read and write {', '.join(lacking)}.",
                "`on`, `off`, `init`, `wait` or `announce` is refused, or the history is lost.",
                _grants("operator", [("readwrite", name, name.endswith("/")) for name in lacking]),
            )
        return
    needed = [("read", store.key, False), ("read", store.marker, False), ("readwrite", own, True)]
    missing = [
        (right, name, prefix)
        for right, name, prefix in needed
        if not (_may_read(store, name, prefix=prefix) and (not prefix or _may_write(store, name)))
    ]
    if missing:
        yield warning(
            "etcd-worker-rights-missing",
            f"{user} lacks a right to {', '.join(name for _, name, _ in missing)}.",
            "A process that can't look, or can't register, is read-only.",
            _grants("worker", missing),
        )
    if _may_write(store, f"{store.workers}another/00000001/ack"):
        yield warning(
            "etcd-entries-of-others",
            f"{user} may write entries that are not its own below {store.workers}.",
            "A process can acknowledge for another one, and `wait` says drained too early.",
            f"Its own begin with {own}: give it that prefix alone.",
        )
    yield from _what_is_told(store, user)
    if not _may_read(store, store.workers, prefix=True):
        yield note(
            "etcd-page-tells-nothing",
            f"{user} may not read all entries below {store.workers}.",
            "The status page and the metrics of a process can't tell of the others.",
            _grants("worker", [("read", store.workers, True)]),
        )
    elif not missing:
        yield ok(
            "etcd-rights-in-order",
            f"{user} can't flip, and may look and register.",
            "Only operators can flip.",
        )


def _what_is_told(store: Store, user: str) -> Iterator[Finding]:
    """Try what a worker may do with the keys of operators that no flip needs."""
    forgeable = [name for name in (store.announced, store.history) if _may_write(store, name)]
    if forgeable:
        yield warning(
            "etcd-history-of-others",
            f"{user} may write {', '.join(forgeable)}.",
            "They are the operators': a process can forge what was done, or announce a night.",
            "Take the right away: etcdctl role revoke-permission.",
        )
    if not _may_read(store, store.announced, prefix=False):
        yield note(
            "etcd-announcement-not-read",
            f"{user} may not read {store.announced}.",
            "What is announced is told by no page and no response.",
            _grants("worker", [("read", store.announced, False)]),
        )


def _grants(role: str, rights: list[tuple[str, str, bool]]) -> str:
    return "; ".join(
        f"etcdctl role grant-permission {role} {'--prefix=true ' * prefix}{right} {name}"
        for right, name, prefix in rights
    )


def _may_read(store: Store, name: str, *, prefix: bool) -> bool:
    # By a plain read: some versions of etcd crash where the client of a transaction that only
    # reads goes away meanwhile.
    try:
        if prefix:
            store.client.range(name, keys_only=True, timeout=_REQUEST)
        else:
            store.client.get(name, timeout=_REQUEST)
    except Denied:
        return False
    return True


def _may_write(store: Store, name: str) -> bool:
    name = name + "?" * name.endswith(("/", "-"))
    try:
        store.client.txn([created(store.key) > _NEVER], [put_op(name, b"")], timeout=_REQUEST)
    except Denied:
        return False
    except Full:  # it was asked for its rights before it was refused
        return True
    return True


# -- the fleet -------------------------------------------------------------------------------


def _marker(store: Store, ttl: float) -> Iterator[Finding]:
    both = [store.client.get(name, timeout=_REQUEST) for name in (store.key, store.marker)]
    marker = marker_of(both[1].kv)
    key_is_there = both[0].kv is not None
    if marker is None or marker.cluster != both[1].cluster_id:
        why = "is not there, or is damaged" if marker is None else "is of another cluster"
        cure = (
            f"`sa-readonly init` if no worker of {store.key} has ever run; else `on`, then `off`."
        )
        yield warning(
            "etcd-no-marker",
            f"{store.marker} {why}.",
            "No process knows whether it may write: all are read-only.",
            cure,
        )
    elif marker.fence <= 3 * ttl:
        yield warning(
            "etcd-fence-too-short",
            f"The fence of {marker.fence:g} s is not longer than three ttl of {ttl:g} s.",
            "A selector refuses to start.",
            "A smaller ttl, or `sa-readonly init --fence` while the key is there.",
        )
    else:
        yield ok(
            "etcd-marker-there",
            f"{store.marker} is there, with a fence of {marker.fence:g} s.",
            f"{marker.longest_fence:g} s and a tenth after `on` no process that can't be reached "
            "is given a read-write connection.",
        )
    if key_is_there:
        yield note("etcd-key-there", f"{store.key} is there.", "The application is read-only now.")
    with contextlib.suppress(Denied):
        short = [one for one in read(store).seen if one.fence is not None and one.fence > 0]
        told = max((one.fence or 0.0 for one in short), default=0.0)
        if marker is not None and told > marker.longest_fence:
            yield note(
                "etcd-longer-fence-told",
                f"A worker goes by a fence of {told:g} s, and the marker tells {marker.fence:g} s.",
                "`wait` goes by the longest.",
            )


def _compaction(store: Store) -> Iterator[Finding]:
    now = store.client.get(store.key, timeout=_REQUEST).revision
    try:
        store.client.get(store.key, revision=1, timeout=_REQUEST)
    except Compacted:
        yield ok(
            "etcd-was-compacted",
            f"etcd is at revision {now}, and the first ones are compacted.",
            "It does not keep all that was ever put.",
        )
        return
    what = f"etcd still keeps all of its {now} revisions"
    meaning = "Nothing is compacted by default: each report stays until the quota is used up."
    cure = "Start it with --auto-compaction-mode=periodic --auto-compaction-retention=1h."
    yield Finding(
        "warning" if now > _MANY else "note", "etcd-never-compacted", f"{what}.", meaning, cure
    )


# -- certificates ----------------------------------------------------------------------------


def _certificates(where: Where) -> Iterator[Finding]:
    """Look at the certificates that the members show, as far as they can be seen."""
    try:
        trust = Trust(where.ca, where.cert, where.cert_key)
        members = [urlsplit(url) for url in parse(where.etcd) if url.startswith("https:")]
    except ConfigurationError as error:
        raise UnreachableError(str(error)) from None
    lacking = []
    for member in members:
        place = (str(member.hostname), int(member.port or 0))
        with contextlib.suppress(OSError):  # what can't be reached is told as a member
            with (
                socket.create_connection(place, _REQUEST) as plain,
                trust.context().wrap_socket(plain, server_hostname=place[0]) as secure,
            ):
                shown = secure.getpeercert(binary_form=True) or b""
            if _USAGE in shown and _CLIENT not in shown:
                lacking.append(f"{member.hostname}:{member.port}")
    if lacking:
        yield warning(
            "etcd-certificate-lacks-client-usage",
            f"The server's certificate has not the usage clientAuth: {listed(lacking)}.",
            "With --client-cert-auth etcd's gateway asks its own server with it, and every request "
            "fails with code 14.",
            "Issue it with the extended key usages serverAuth and clientAuth.",
        )
