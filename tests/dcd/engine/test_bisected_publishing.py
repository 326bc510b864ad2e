"""What bisections do not repeat."""

from types import SimpleNamespace
from typing import Any

import pytest

from dcd.engine.bisections import _test
from statemachine.errors import Refused


def test_a_checkpoint_that_publishes_tests_nothing() -> None:
    """Else each build between the two would publish what it has made."""
    planned = (
        SimpleNamespace(name="verify", mod_path="dcd/checkpoints/media/verify_boot"),
        SimpleNamespace(name="publish", mod_path="dcd/checkpoints/publish/s3"),
    )
    records = tuple(SimpleNamespace(name=each.name, done=True, state="") for each in planned)
    names = [each.name for each in planned]
    build: Any = SimpleNamespace(
        id="b", checkpoints=records, plan=SimpleNamespace(checkpoints=planned), index=names.index
    )
    assert _test(build, build, "verify") == "verify"
    with pytest.raises(Refused, match="publishes"):
        _test(build, build, "publish")
