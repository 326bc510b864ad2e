"""The lines that the daemon writes after a worker's request.

Separate from `dcd.worker.request`, because the supervisor of a portable worker reads them and imports little
else.
"""

CANCEL = b"cancel\n"
"""Asks the worker to stop."""

CLAIMED = b"claimed\n"
"""Answers a claim: it is in the event log."""

KILL = b"kill\n"
"""For the launcher: end the worker at once."""
