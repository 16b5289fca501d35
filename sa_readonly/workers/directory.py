"""A registry of workers that is a directory."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConfigurationError
from ..rehearsal.sheet import Sheet
from ..text import printable
from . import process
from .entry import DirectoryEntry
from .folder import Folder, why
from .protocol import Identify, Liveness, Registry, RegistryError, Seen

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DirectoryRegistry"]

_T = TypeVar("_T")


class DirectoryRegistry(Registry):
    """A directory with, for each worker, a lock file and a report; see :class:`.Folder`.

    :param path: the path of the directory; made absolute now.
    :raises ConfigurationError: if ``path`` is no path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self.path = os.path.abspath(os.fsdecode(path))
            valid = bool(os.fspath(path)) and "\0" not in self.path
        except (TypeError, UnicodeError):
            valid = False
        if not valid:
            raise ConfigurationError(
                f"workers takes the path of a directory, True or False, not {path!r}."
            )
        self.name = self.path
        self._folder = Folder(self.path)

    def register(self, identify: Identify) -> DirectoryEntry:
        entry = DirectoryEntry(self._folder, identify)
        entry.ensure()
        return entry

    def sweep(self, identify: Identify) -> None:
        self._folder.sweep(identify)

    def read(self) -> list[Seen]:
        return self._read(
            lambda directory: [one for _, one in self._folder.entries(directory)],
            partial(Seen, liveness=Liveness.UNKNOWN),
        )

    def sheets(self) -> list[Sheet]:
        return self._read(lambda directory: list(self._folder.sheets(directory)), Sheet)

    def _read(self, read: Callable[[int], list[_T]], instead: Callable[..., _T]) -> list[_T]:
        """Read the directory; what is given instead, by its name, tells why it can't be read."""
        try:
            with self._folder.opened() as directory:
                return read(directory)
        except FileNotFoundError:
            return []
        except (OSError, RegistryError) as error:
            problem = str(error) if isinstance(error, RegistryError) else why(error)
            return [instead(name=printable(self.path), problem=problem)]

    def scope(self) -> str:
        """Return a digest of which directory it is; see :meth:`.Registry.scope`.

        A process for which locks mean something else reads other entries in the same directory.
        """
        try:
            found = os.stat(self.path)
            identity = f"{found.st_dev} {found.st_ino}"
        except OSError:
            identity = self.path
        return process.scope(identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DirectoryRegistry) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"DirectoryRegistry({self.path!r})"
