"""What sa_readonly costs, as ratios measured in one run: ``python -m benchmarks``."""
