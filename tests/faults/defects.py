"""Defects: what the negative controls put into a daemon, so that the suites prove that they would see it.

Each is a function that changes the loaded code of the daemon that is being forked. The last two are no
defects, but let tests get at what they are about.
"""

import time


def acknowledge_before_commit() -> None:
    """Tell callers that their events are on disk a moment before they are."""
    from statemachine.errors import DcdError
    from store.eventlog.sqlite import projections
    from store.eventlog.sqlite.writer import SqliteWriter, _Group

    def transact(self, requests):
        group = _Group(self.position)
        with self._connection.begin():
            outcomes = [(request, self._insert(group, request)) for request in requests]
            projections.store(self._connection, group.states.values(), group.events)
            for request, outcome in outcomes:
                assert not isinstance(outcome, DcdError)
                request.future.set_result(outcome)
            time.sleep(0.2)
        self._move(group)

    SqliteWriter._transact = transact


def acknowledge_before_the_answer() -> None:
    """In a farm, tell callers that their events are in the database a moment before they are sent."""
    from store.eventlog.postgresql.writer import PostgresqlWriter

    sent = PostgresqlWriter._sent

    def careless(self, prepared):
        for request, parts in prepared:
            request.future.set_result([event for part in parts for event in part.events])
        time.sleep(0.2)
        return sent(self, prepared)

    PostgresqlWriter._sent = careless


def acknowledge_what_failed() -> None:
    """Take a failed write for a success."""
    from store.eventlog.sqlite import writer

    transact = writer.SqliteWriter._transact

    def careless(self, requests):
        group = writer._Group(self.position)
        with self._connection.begin() as transaction:
            outcomes = [(request, self._insert(group, request)) for request in requests]
            transaction.rollback()
        try:
            transact(self, requests)
        except Exception:  # noqa: BLE001
            for request, outcome in outcomes:
                request.future.set_result(outcome)

    writer.SqliteWriter._transact = careless


def workers_outlive_the_daemon() -> None:
    """Start workers, as programs, without a parent-death signal, deaf to the end of their request."""
    from dcd.launcher import namespaced as workers

    command = workers._command

    def careless(request, messages):
        whole = command(request, messages)
        chain = [part for part in whole[whole.index("unshare") :] if "kill-child" not in part]
        return ["sh", "-c", '(head -n 1; exec sleep 1000) | "$@"', "sh", *chain]

    workers._command = careless
    workers._forked = lambda *_: None


def layers_appear_bit_by_bit() -> None:
    """Commit a layer by moving its parts into place one after another."""
    from store.layers.directory import LayerDirectory
    from store.layers.stored import Stored

    commit = LayerDirectory.commit

    def careless(self, workspace, record, *others):
        layer, target = workspace.directory / "layer", self.directory / record.key
        target.mkdir()
        stored = Stored(record, self._trees.size_bytes(layer))
        (target / "layer.json").write_bytes(stored.text)
        for entry in list(layer.iterdir()):
            entry.rename(target / entry.name)
        return commit(self, workspace, record, *others)

    LayerDirectory.commit = careless


def look_for_space_often() -> None:
    """See free space at once instead of within seconds."""
    from dcd.engine import scheduler
    from store.eventlog.sqlite import writer

    scheduler.SPACE_CHECK_SECONDS = 0.2
    writer.PROBE_SECONDS = 0.2


def trust_the_back_end() -> None:
    """Take the configured layer back end without a trial, which would meet the fault first."""
    from dcd.launcher import preparation
    from store.layers import choose

    def trusted(directory, only, *, mounts):
        store = choose.open_store(only, directory)
        store.prepare()
        return store, "trusted"

    preparation.choose = trusted


DEFECTS = {
    defect.__name__: defect
    for defect in (
        acknowledge_before_commit,
        acknowledge_before_the_answer,
        acknowledge_what_failed,
        workers_outlive_the_daemon,
        layers_appear_bit_by_bit,
        look_for_space_often,
        trust_the_back_end,
    )
}
