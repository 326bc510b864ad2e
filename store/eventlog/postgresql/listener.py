"""Hearing of the commits of other members: LISTEN on a connection of its own."""

import os
import select
import threading

import psycopg

from statemachine.errors import DcdError
from store.eventlog.postgresql.connection import Connection, check, connect_to, explain
from store.eventlog.postgresql.writer import (
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    PostgresqlWriter,
    position_of,
)

SETTLE_SECONDS = 0.02
"""Between two looks at the log: each member looks, so after every commit all of them would do more than the
one that writes. The first commit after a pause is seen at once."""


class Listener:
    """A thread that brings the writer's position up to that of the log, until `close`. It connects again by
    itself, and then sees what it missed."""

    def __init__(self, dsn: str, farm: str, writer: PostgresqlWriter) -> None:
        self._dsn = dsn
        self._farm = farm
        self._writer = writer
        self._wakes, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="event-log-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Idempotent."""
        if self._thread.is_alive():
            os.write(self._wake, b".")
            self._thread.join()

    def _run(self) -> None:
        wait = FIRST_WAIT_SECONDS
        while not self._closing(0):
            try:
                with connect_to(self._dsn, self._farm) as connection:
                    check(connection)  # what is wrong with it now, the writer would see too late
                    connection.execute("LISTEN dcd_events")
                    self._writer.in_sight()
                    wait = FIRST_WAIT_SECONDS
                    # What was committed before LISTEN was not notified.
                    self._writer.reached(position_of(connection))
                    while not self._closing_before_news(connection):
                        self._writer.reached(position_of(connection))
                        if self._closing(SETTLE_SECONDS):
                            break
                    return
            except (psycopg.Error, DcdError) as error:
                self._writer.lost_sight(explain(error))
            if self._closing(wait):
                return
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def _closing_before_news(self, connection: Connection) -> bool:
        """Wait for the end, or for a notification. Returns whether it is the end."""
        # One that came during a statement is no input of the connection any more.
        while not list(connection.notifies(timeout=0)):
            if self._closing(None, connection.fileno()):
                return True
        return False

    def _closing(self, seconds: float | None, *others: int) -> bool:
        """Wait for the end, or for input from the `others`. Returns whether it is the end."""
        ready = select.poll()  # select() has no room for the descriptors of a busy daemon
        for descriptor in (self._wakes, *others):
            ready.register(descriptor, select.POLLIN)
        found = ready.poll(None if seconds is None else seconds * 1000)
        return any(descriptor == self._wakes for descriptor, _ in found)
