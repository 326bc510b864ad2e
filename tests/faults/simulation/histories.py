"""Running state machines of Hypothesis as the tests of a simulation do."""

from typing import Any

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run_histories(
    machine: type[RuleBasedStateMachine],
    bounded: settings,
    chance: int | None = None,
    **profile: Any,
) -> None:
    """Run random histories of a machine. `profile` changes the settings `bounded`; `chance` is the seed."""
    run_state_machine_as_test(
        machine if chance is None else seed(chance)(machine),
        settings=settings(
            bounded,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            **profile,
        ),
    )
