"""A worker as a process of its own: does what its standard input says, and answers each line.

`python worker_process.py DIRECTORY FILE`; the answer begins with "ok" or "error".
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

from sa_readonly.mode import Mode
from sa_readonly.switch import _key
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.protocol import Entry, RegistryError, Report


def identity(path: str) -> str | None:
    """The generation, as FileSwitch tells it of a file that is no symlink."""
    try:
        return _key(os.lstat(path))
    except FileNotFoundError:
        return None


def without_hooks() -> int:
    """Fork as C code does that runs no hooks of Python: uWSGI does unless it is told to."""
    return ctypes.PyDLL(None).fork()


def child(entry: Entry, *, hooked: bool, registers: bool) -> str:
    """Fork one that stays until it is killed; return its pid when it has done its part."""
    reading, writing = os.pipe()
    pid = os.fork() if hooked else without_hooks()
    if pid == 0:
        try:
            answer = str(entry.ensure()) if registers else "nothing"
            os.write(writing, answer.encode())
            os.close(writing)
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    answer = os.read(reading, 100).decode()
    os.close(reading)
    return f"{pid} {answer}"


def obey(path: str, entry: Entry, words: list[str]) -> object:
    match words:
        case ["report", mode, connections, *seconds]:
            since = time.time() - float(seconds[0]) if seconds else None
            report = Report(Mode(mode), identity(path), int(connections), since, watching=True)
            return entry.report(lambda: report)
        case ["closed"]:
            return entry.closed()
        case ["withdraw"]:
            return entry.withdraw()
        case ["close"]:
            return entry.close()
        case ["ensure"]:
            return entry.ensure()
        case ["fork", *how]:
            return child(entry, hooked="unhooked" not in how, registers="registers" in how)
        case ["exec"]:
            command = [
                sys.executable,
                "-S",
                "-c",
                "import signal; print(flush=True); signal.pause()",
            ]
            started = subprocess.Popen(command, close_fds=False, stdout=subprocess.PIPE)
            started.stdout.readline()
            return started.pid
    raise SystemExit(f"unknown: {words}")


def answer(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    directory, path = sys.argv[1:]
    registry = DirectoryRegistry(directory)
    entry = registry.register(lambda: identity(path))
    answer("ok", entry.name)
    while line := sys.stdin.readline():
        try:
            answer("ok", obey(path, entry, line.split()))
        except RegistryError as error:
            answer("error", error)


if __name__ == "__main__":
    main()
