"""Holding: what would be refused waits for read-write, before it takes anything."""
