"""What hypothesis feeds to the product: inputs of one kind, and what must hold of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Feed:
    """Inputs of one kind.

    :param name: what is fed.
    :param inputs: the inputs.
    :param check: raises where something does not hold of an input; else tells how it ended, in a
        few words, so that a run shows whether it met all that it is about.
    """

    name: str
    inputs: SearchStrategy[Any]
    check: Callable[[Any], str]


def feed(one: Feed, examples: int, seed: int | None = None) -> Counter[str]:
    """Feed so many inputs, and return how they ended.

    :param seed: of the inputs; without one they are the same each time.
    """
    ended: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        derandomize=seed is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(one.inputs)
    def check(found: Any) -> None:
        ended[one.check(found)] += 1

    if seed is not None:
        check = hypothesis.seed(seed)(check)
    check()
    return ended
