"""The tests' process that forks daemons: whose end it reports."""

import os
from types import SimpleNamespace

from tests.forking import Zygote


def test_a_number_that_the_system_gives_again_is_of_the_later_process() -> None:
    zygote = object.__new__(Zygote)
    zygote._answers, zygote._forked, zygote._ended = b"", [], {}
    reading, writing = os.pipe()
    with os.fdopen(reading) as answers, os.fdopen(writing, "wb", 0) as said:
        zygote._process = SimpleNamespace(stdout=answers)  # type: ignore[assignment]
        said.write(b'{"forked": 7}\n{"ended": 7, "status": 3}\n{"forked": 7}\n')
        assert zygote.status_of(7, 0.0) is None
        said.write(b'{"ended": 7, "status": 0}\n')
        assert zygote.status_of(7, 0.0) == 0
