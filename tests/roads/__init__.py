"""Ways to write into a database, as data. tests/test_roads.py tries each of them.

A road is tried from a `Place`: in tests/test_roads.py one that belongs to an application that is
read-only, and, as a control, one without any of ours, where it must take effect.
"""

from __future__ import annotations

# ruff: noqa: F401  # each of these modules adds its roads
from tests.roads import around, cursors, statements, unit_of_work, ways
from tests.roads.model import ALL, LITE, MY, PG, ROADS, Base, Part, Place, Road, Thing

__all__ = ["ALL", "LITE", "MY", "PG", "ROADS", "Base", "Part", "Place", "Road", "Thing"]
