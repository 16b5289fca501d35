"""Flips by the hundred under faults, whose history is checked: `python -m benchmarks.chaos`."""
