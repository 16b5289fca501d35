"""All of them."""

from benchmarks import engines, flip, scale, stat_cache, transaction
from benchmarks.measure import main

main(
    lambda rounds: {
        **stat_cache.run(rounds),
        **transaction.run(rounds),
        **flip.run(rounds),
        **scale.run(rounds),
        **engines.run(rounds),
    }
)
