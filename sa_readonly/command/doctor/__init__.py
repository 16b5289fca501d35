"""``sa-readonly doctor``: examines what protects an installation, and writes nothing."""

from .command import doctor, examine
from .findings import Finding

__all__ = ["Finding", "doctor", "examine"]
