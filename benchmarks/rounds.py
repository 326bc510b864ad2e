"""How often a benchmark repeats itself: a number of rounds, or fewer within its share of the time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rounds:
    """At most `most` rounds, and at least one. No other begins that would not be over at `until`, a time of
    time.monotonic(), if it took as long as the longest before it."""

    most: int
    until: float = float("inf")
    _longest: list[float] = field(default_factory=lambda: [0.0], repr=False)

    def __iter__(self) -> Iterator[int]:
        """The numbers of the rounds, from 0."""
        for number in range(self.most):
            began = time.monotonic()
            if number and began + max(self._longest) > self.until:
                return
            yield number
            self._longest.append(time.monotonic() - began)


def shares(minutes: float, most: Sequence[int], weights: Sequence[float]) -> Iterator[Rounds]:
    """The rounds of benchmarks that run one after another, within `minutes` together: what one leaves of its
    share is for those after it. Each has the most rounds and the weight of its number."""
    end = time.monotonic() + 60 * minutes
    for number, weight in enumerate(weights):
        now = time.monotonic()
        until = now + max(0.0, end - now) * weight / sum(weights[number:])
        yield Rounds(most[number], until)
