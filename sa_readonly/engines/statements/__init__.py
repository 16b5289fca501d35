"""What a text of SQL would do: Python's part of the guard.

It need not catch every write, as the server refuses those in a read-only transaction. It must catch
what the server lets through: what lifts the protection, takes a lock, ends the transaction, or acts
outside of it. A statement whose first word is not known as a read is refused, so that a kind of
statement that a later server brings is refused until it is known.
"""

from .queries import SET_CONFIG
from .settings import writing_pragma
from .texts import (
    bare,
    begins_writing,
    ends_transaction,
    examine,
    hides_a_parameter,
    may_hide,
    reads_alike,
)

__all__ = [
    "SET_CONFIG",
    "bare",
    "begins_writing",
    "ends_transaction",
    "examine",
    "hides_a_parameter",
    "may_hide",
    "reads_alike",
    "writing_pragma",
]
