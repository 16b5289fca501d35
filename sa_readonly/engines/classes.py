"""Another class for an object that exists: a dialect, a pool, an engine."""

from __future__ import annotations

from typing import Any

__all__ = ["become", "grow"]

# More names than fit into what the instances of a class share.
_FILL = dict.fromkeys(f"_sa_readonly_fill_{number}" for number in range(48))


def become(one: Any, cls: type[Any]) -> None:
    """Give an object another class, and let its attributes be read as fast as before."""
    if type(one) is not cls:
        one.__class__ = cls
        grow(one)


def grow(one: Any) -> None:
    """Let the attributes of an object be read fast whose class was changed, or ``vars()`` read.

    CPython, from 3.11 on, reads an attribute by its place among those of the class. Such an object
    has left that, and each is looked up by its name, in SQLAlchemy's own code, too: a transaction
    was 5 % slower. A dict that has grown has places of its own. It grows where it is, as other
    threads may be writing to it. See ``findings/python_looking_at_vars_slows_attributes.sh``.
    """
    attributes = one.__dict__
    attributes |= _FILL
    for name in _FILL:
        try:  # noqa: SIM105  # a call less for each
            del attributes[name]
        except KeyError:  # another thread has just done the same
            pass
