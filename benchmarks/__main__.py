"""All of them."""

from benchmarks import stat_cache, transaction
from benchmarks.measure import main

main(lambda rounds: {**stat_cache.run(rounds), **transaction.run(rounds)})
