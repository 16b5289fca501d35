"""The workers: the processes of the application, what each reports, and whether all are drained.

A registry of one's own derives from :class:`Registry`, and its entries from :class:`Entry`.
"""

from .protocol import Connections, Entry, Liveness, Registry, RegistryError, Report, Seen

__all__ = ["Connections", "Entry", "Liveness", "Registry", "RegistryError", "Report", "Seen"]
