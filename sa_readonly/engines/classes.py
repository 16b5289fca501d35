"""Another class for an object that exists: a dialect, a pool, an engine."""

from __future__ import annotations

from typing import Any

__all__ = ["become"]

_FILL = dict.fromkeys(
    f"_sa_readonly_fill_{number}" for number in range(48)
)  # more than fit where they are shared


def become(one: Any, cls: type[Any]) -> None:
    """Give an object another class.

    CPython reads an attribute by its place among those of the class. It can't where an object had
    another class before, and looks each up by its name, in SQLAlchemy's own code, too: that made a
    transaction 5 % slower. A dict that has grown has places of its own. It grows where it is, as
    other threads may be writing to it.
    """
    one.__class__ = cls
    attributes = vars(one)
    attributes.update(_FILL)
    for name in _FILL:
        del attributes[name]
