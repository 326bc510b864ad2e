"""The smallest set of changes that makes a test fail: delta debugging.

The algorithm is ddmin of Zeller and Hildebrandt (Simplifying and Isolating Failure-Inducing Input, 2002): it
tests ever smaller parts of the changes, and what is left without them, until none can be left out.
A test may also have no result, when changes belong together. Pure.
"""

from collections.abc import Callable, Sequence

GOOD, BAD, UNRESOLVED = "good", "bad", "unresolved"

Test = Callable[[Sequence[int]], str]
"""Tests with these changes, in ascending order: GOOD, BAD or UNRESOLVED."""


def minimal(changes: Sequence[int], test: Test) -> list[int]:
    """The changes that are left of those with which the test is bad; without any one of them it is not bad.
    Asks for no set twice."""
    known: dict[tuple[int, ...], str] = {}

    def is_bad(chosen: Sequence[int]) -> bool:
        key = tuple(chosen)
        if key not in known:
            known[key] = test(key)
        return known[key] == BAD

    left, parts = list(changes), 2
    while len(left) > 1:
        pieces = _split(left, parts)
        smaller = next((piece for piece in pieces if is_bad(piece)), None)
        if smaller is not None:
            left, parts = smaller, 2
            continue
        without = ([c for c in left if c not in piece] for piece in pieces) if parts > 2 else ()
        smaller = next((rest for rest in without if is_bad(rest)), None)
        if smaller is not None:
            left, parts = smaller, max(parts - 1, 2)
        elif parts < len(left):
            parts = min(2 * parts, len(left))
        else:
            break
    return left


def _split(changes: list[int], parts: int) -> list[list[int]]:
    size, more = divmod(len(changes), parts)
    pieces, begin = [], 0
    for number in range(parts):
        end = begin + size + (1 if number < more else 0)
        pieces.append(changes[begin:end])
        begin = end
    return pieces
