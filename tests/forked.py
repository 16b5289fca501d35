"""Programs started by a fork of a process that has imported them, in 10 ms instead of 400.

`Forked` is a real process, with a pid, streams, signals and an exit code of its own, and the part
of subprocess.Popen's interface that tests use. What a fresh interpreter shows and a fork does not,
its imports, is tested by subprocess.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import Self

ROOT = Path(__file__).parent.parent
STREAMS = ("stdin", "stdout", "stderr")


class Forked:
    """A process that calls ``main()`` of a module with these arguments.

    :param streams: for ``stdin``, ``stdout`` and ``stderr`` a descriptor or ``subprocess.PIPE``.
    """

    stdin: Any = None
    stdout: Any = None
    stderr: Any = None

    def __init__(
        self, module: str, *arguments: str, env: dict[str, str] | None = None, **streams: int
    ) -> None:
        self.returncode: int | None = None
        theirs, mine = [], []
        for number, name in enumerate(STREAMS):
            if streams.get(name) != subprocess.PIPE:
                theirs.append(os.dup(streams.get(name, number)))
                continue
            reading, writing = os.pipe()
            ours, other = (writing, reading) if name == "stdin" else (reading, writing)
            setattr(self, name, os.fdopen(ours, "w" if name == "stdin" else "r"))
            theirs.append(other)
            mine.append(getattr(self, name))
        self._streams = mine
        self._report, report = os.pipe()
        wish = {"module": module, "arguments": arguments, "environment": env or dict(os.environ)}
        try:
            _ask(json.dumps(wish).encode(), [*theirs, report])
        finally:
            for descriptor in (*theirs, report):
                os.close(descriptor)
        self.pid = int(self._told(60.0) or 0)

    def _told(self, seconds: float | None) -> str | None:
        """Return the next line of the report, or None if there is none in time."""
        if not select.select([self._report], [], [], seconds)[0]:
            return None
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._report, 1) or b"\n"
        return line.decode().strip()

    def poll(self) -> int | None:
        if self.returncode is None and (told := self._told(0)) is not None:
            self.returncode = int(told)
            os.close(self._report)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if (told := self._told(timeout)) is None:
                raise subprocess.TimeoutExpired("forked", timeout or 0.0)
            self.returncode = int(told)
            os.close(self._report)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, text: str | None = None) -> tuple[Any, Any]:
        if self.stdin is not None and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.write(text or "")
                self.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
        read: dict[str, str] = {}

        def reading(name: str, stream: Any) -> None:
            with stream:
                read[name] = stream.read()

        threads = [
            threading.Thread(target=reading, args=(name, stream))
            for name in STREAMS[1:]
            if (stream := getattr(self, name)) is not None and not stream.closed
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.wait()
        return read.get("stdout"), read.get("stderr")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.wait()


@cache
def _origin(_pid: int) -> socket.socket:
    """Start the process that forks, one for each process of tests; it ends with the socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-W", "error", "-m", "tests.forked", str(theirs.fileno())]
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _ask(wish: bytes, descriptors: list[int]) -> None:
    socket.send_fds(_origin(os.getpid()), [wish], descriptors)


# -- the process that forks ------------------------------------------------------------------------


def serve(channel: socket.socket) -> None:
    from sa_readonly import cli  # noqa: F401, PLC0415  # imported once, here
    from sa_readonly.etcd import client  # noqa: F401, PLC0415  # the same, and urllib3 with it
    from tests import etcd_worker, worker_process  # noqa: F401, PLC0415  # the same

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who watch over a child are not waited for
    while True:
        wish, descriptors, _, _ = socket.recv_fds(channel, 2**20, 4)
        if not wish:
            return
        if os.fork() == 0:
            channel.close()
            watch(json.loads(wish), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def watch(wish: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Start it, and report its pid and then its exit code."""
    *streams, report = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(report)
        become(wish, streams)
    for descriptor in streams:
        os.close(descriptor)
    os.write(report, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(report, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def become(wish: dict[str, Any], streams: list[int]) -> NoReturn:
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, closefd=False)  # noqa: SIM115  # as Python itself opens them
        for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(wish["environment"])
    time.tzset()
    package, _, name = wish["module"].rpartition(".")
    sys.argv = ["sa-readonly" if package == "sa_readonly" else f"{name}.py", *wish["arguments"]]
    sys.exit(sys.modules[wish["module"]].main())


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
