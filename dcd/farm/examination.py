"""The examination of a farm: its database, its members, and this host's clock. Blocking.

`dcctl doctor` shows it through a daemon, `dcd doctor --config FILE` without one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from psycopg.rows import class_row

from dcd.doctor import HostCheck
from dcd.engine.hosts import Host
from dcd.farm.census import clock_trouble, host_of
from dcd.farm.certificates import examine_certificates
from statemachine.errors import DcdError
from store.eventlog.postgresql.connection import Connection, check, connect, explained
from store.eventlog.postgresql.log import require_same
from store.eventlog.postgresql.members import members_by, own_host

CONNECTIONS = 10
"""Of each member, at most, with some for administrators."""


@dataclass(frozen=True, slots=True)
class _Server:
    """What a server says of itself; `clock` in seconds since 1970."""

    version: str
    standbys: str
    connections: int
    clock: float


def examine(dsn: str, lost_seconds: float, directory: Path) -> list[HostCheck]:
    """The checks of a farm, in the order in which they are shown; `directory` keeps to which farm this host
    belongs. Raises nothing that a user can cause."""
    try:
        with explained(), connect(dsn) as connection:
            return [
                *_examined(connection, lost_seconds, directory),
                *examine_certificates(dsn),
            ]
    except DcdError as error:
        return [failed("farm database", "missing", error)]


def failed(name: str, status: str, error: DcdError) -> HostCheck:
    """A check that an error has ended."""
    text = f"{error.brief}: {error.details}" if error.details else error.brief
    return HostCheck(name, status, " ".join(text.split()), error.resolution)


def _examined(connection: Connection, lost_seconds: float, directory: Path) -> list[HostCheck]:
    farm = check(connection)
    require_same(directory, farm)
    host = own_host(connection)
    before = time.time()
    server = _server(connection)
    after = time.time()
    own = version("dcd")
    hosts = [host_of(each, lost_seconds, own) for each in members_by(connection)]
    name = f"{connection.info.dbname} on {connection.info.host}"
    return [
        _database(server, name, farm, len(hosts)),
        _clock((before + after) / 2 - server.clock),
        _members(hosts, host),
    ]


def _server(connection: Connection) -> _Server:
    with connection.cursor(row_factory=class_row(_Server)) as cursor:
        found = cursor.execute(_SERVER).fetchone()
    assert found is not None
    return found


def _database(server: _Server, name: str, farm: str, members: int) -> HostCheck:
    standby = "with a synchronous standby" if server.standbys else "without a synchronous standby"
    text = f"{name}: PostgreSQL {server.version}, farm {farm}, {standby}"
    wanted = CONNECTIONS * members
    if server.connections < wanted:
        few = f"{text}; max_connections is {server.connections}, and {members} members may need {wanted}"
        remedy = f"set max_connections = {wanted} in postgresql.conf, and restart the server"
        return HostCheck("farm database", "warning", few, remedy)
    return HostCheck("farm database", "ok", text)


def _clock(ahead_seconds: float) -> HostCheck:
    if wrong := clock_trouble(ahead_seconds):
        remedy = "synchronise both clocks with NTP: timedatectl set-ntp true, or chronyc makestep"
        return HostCheck("farm clock", "warning", wrong.removeprefix("its "), remedy)
    return HostCheck("farm clock", "ok", "as that of the database")


def _members(hosts: Sequence[Host], own: str) -> HostCheck:
    by_state = {state: [each.host for each in hosts if each.state == state] for state in _STATES}
    counts = [f"{len(by_state['up'])} up"]
    counts += [f"{_names(found)} {state}" for state in _STATES[1:] if (found := by_state[state])]
    text = f"this is {own}; {', '.join(counts)}"
    lost, unseen = by_state["lost"], by_state["never seen"]
    others = [f"{each.host}: {what}" for each in hosts for what in each.warnings]
    if not (lost or unseen or others):
        return HostCheck("farm members", "ok", text)
    remedy = "look after these hosts"
    if own in lost:
        remedy = "this host has sent no heartbeat for too long: see the daemon's log"
    elif own in unseen:
        remedy = "this host has sent no heartbeat yet: start the daemon, or see its log"
    elif unseen:
        remedy = f"start dcd on {_names(unseen)}, with the table [farm] in its configuration"
    if lost and own not in lost:
        remedy += f"; one that does not return: dcd farm member remove {lost[0]}"
    return HostCheck("farm members", "warning", "; ".join([text, *others[:_NAMED]]), remedy)


def _names(hosts: Sequence[str]) -> str:
    """The names of hosts for people: the first ones, and how many more there are."""
    more = f" and {len(hosts) - _NAMED} more" if len(hosts) > _NAMED else ""
    return ", ".join(hosts[:_NAMED]) + more


_STATES = ("up", "draining", "lost", "never seen")
_NAMED = 5
_SERVER = """
    SELECT current_setting('server_version') AS version,
        current_setting('synchronous_standby_names') AS standbys,
        current_setting('max_connections')::int AS connections,
        extract(epoch FROM clock_timestamp())::float8 AS clock
"""
