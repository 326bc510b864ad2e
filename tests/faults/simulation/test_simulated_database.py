"""The simulated database is like the real one: the log's own suites run on it, and both get the same
questions."""

# The suites themselves, and their fixtures, on the database of this module.
from tests.store.eventlog.conftest import (  # noqa: F401
    Postgresql,
    append,
    farm,
    initialised,
    log,
    new_farm,
    server,
    submission,
    submit,
)
from tests.store.eventlog.test_eventlog_append import (  # noqa: F401
    held,
    test_what_is_appended_is_read_back_as_it_was,
)
from tests.store.eventlog.test_eventlog_fence import (  # noqa: F401
    test_a_taking_is_an_event_and_ends_the_epoch_before,
    test_commands_of_people_need_no_epoch_and_facts_do,
    test_the_epoch_of_another_member_is_no_key,
    test_what_has_ended_is_not_taken,
)
