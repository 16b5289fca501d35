"""All of them."""

from benchmarks import engines, fleet, flip, hold, scale, stat_cache, transaction
from benchmarks.measure import main

main(
    lambda rounds: {
        **stat_cache.run(rounds),
        **transaction.run(rounds),
        **flip.run(rounds),
        **hold.run(rounds),
        **scale.run(rounds),
        **engines.run(rounds),
        **fleet.run(rounds),
    }
)
