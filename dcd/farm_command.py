"""`dcd farm`: what the administrator of a farm does to its database, without a daemon."""

import argparse
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from statemachine.errors import DcdError, Unprepared

if TYPE_CHECKING:
    from dcd.configuration import Configuration
    from dcd.doctor import HostCheck

INSTALL = "install dcd with its extra: pip install 'dcd[farm]'"


def configure(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line of `dcd`."""
    farm = commands.add_parser("farm", help="prepare the database of a farm of build servers")
    what = farm.add_subparsers(required=True, metavar="init|import|member")
    init = what.add_parser(
        "init", help="create or renew the tables, functions and roles of a farm in a database"
    )
    init.add_argument("database", metavar="DSN", help=_DSN)
    init.set_defaults(run=_init)

    moved = what.add_parser("import", help="copy the event log of one machine into an empty farm")
    moved.add_argument("database", metavar="DSN", help=_DSN)
    moved.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        default=Path("/var/lib/dcd"),
        help="the state directory of the daemon, which must be stopped; default: /var/lib/dcd",
    )
    moved.add_argument(
        "--host",
        required=True,
        metavar="HOST",
        help="the member that this machine becomes: layers, files and artifacts of its builds are there",
    )
    moved.set_defaults(run=_import)

    member = what.add_parser("member", help="say which hosts belong to the farm")
    does = member.add_subparsers(required=True, metavar="add|list|remove")
    add = does.add_parser("add", help="add a host, or change its labels")
    add.add_argument("host", metavar="HOST")
    add.add_argument(
        "labels",
        metavar="LABEL",
        nargs="*",
        help="what builds may require of it, such as amd64, kvm and tool:xorriso; 'tool:*' stands for all "
        "that begin with tool:. `dcd doctor` on the host shows what it has",
    )
    add.set_defaults(run=_add)
    remove = does.add_parser("remove", help="remove a host; other members take its builds")
    remove.add_argument("host", metavar="HOST")
    remove.set_defaults(run=_remove)
    shown = does.add_parser("list", help="show the hosts")
    shown.set_defaults(run=_list)
    for each in (add, remove, shown):
        each.add_argument(
            "--database",
            metavar="DSN",
            default="",
            help=f"{_DSN}; default: PGHOST, PGDATABASE, ...",
        )
    for each in (init, moved, add, remove, shown):
        each.add_argument("--json", action="store_true", help="print JSON")


_DSN = "a connection string of libpq, as an administrator of the database"


def require_library() -> None:
    """Raise Unprepared unless the libraries of a farm are installed."""
    missing = [name for name in ("psycopg", "procrastinate") if not importlib.util.find_spec(name)]
    if missing:
        raise Unprepared("a farm needs more libraries", f"missing: {', '.join(missing)}", INSTALL)


def examined(settings: "Configuration") -> "list[HostCheck]":
    """The checks of the farm and of the registry for layers of these settings. Blocking."""
    return [*_examined_farm(settings), *_examined_registry(settings)]


def _examined_registry(settings: "Configuration") -> "list[HostCheck]":
    if not settings.farm_registry:
        return []
    from dcd.doctor import HostCheck
    from dcd.farm.shared_registry import read_login, reading_registry, said

    try:
        reading_registry(settings.farm_registry, read_login(settings)).check()
    except (DcdError, OSError) as error:
        remedy = error.resolution if isinstance(error, DcdError) else ""
        return [HostCheck("shared layers", "warning", said(error), remedy)]
    return [HostCheck("shared layers", "ok", f"{settings.farm_registry} answers")]


def _examined_farm(settings: "Configuration") -> "list[HostCheck]":
    if not settings.farm_database:
        return []
    try:
        require_library()
    except Unprepared as error:
        from dcd.doctor import HostCheck

        return [HostCheck("farm database", "missing", error.details, error.resolution)]
    from dcd.farm.examination import examine
    from dcd.serve import EVENTS

    return examine(settings.farm_database, settings.farm_lost_seconds, settings.state_dir / EVENTS)


def _init(arguments: argparse.Namespace) -> int:
    require_library()
    from dcd.farm.install import create_queue
    from store.eventlog.postgresql.administration import init

    new = init(arguments.database)
    create_queue(arguments.database)
    text = "the database is ready; add its members with `dcd farm member add HOST LABEL...`"
    _print(
        arguments, {"new": new}, text if new else "the database was that of a farm; it is renewed"
    )
    return 0


def _import(arguments: argparse.Namespace) -> int:
    require_library()
    from dcd.serve import EVENTS, locked
    from store.eventlog.postgresql.administration import import_log

    with locked(arguments.state_dir):
        log = arguments.state_dir / EVENTS / "events.db"
        count = import_log(arguments.database, log, arguments.host)
    text = f"imported and verified {count} event{'s' * (count != 1)}; the old log is unchanged"
    _print(arguments, {"events": count}, text)
    return 0


def _add(arguments: argparse.Namespace) -> int:
    require_library()
    from store.eventlog.postgresql.members import add

    added = add(arguments.database, arguments.host, arguments.labels)
    labels = " ".join(added.labels) or "no labels"
    _print(
        arguments, asdict(added), f"{added.host} logs in as the role {added.role}; it has {labels}"
    )
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    require_library()
    from store.eventlog.postgresql.members import remove

    remove(arguments.database, arguments.host)
    _print(arguments, {"host": arguments.host}, f"{arguments.host} is no member any more")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    require_library()
    from store.eventlog.postgresql.members import members

    found = members(arguments.database)
    rows = [
        (each.host, _seen(each.silent_seconds, each.draining), " ".join(each.labels) or "-")
        for each in found
    ]
    text = _table([("HOST", "SEEN", "LABELS"), *rows]) if rows else "the farm has no members"
    _print(arguments, {"members": [asdict(each) for each in found]}, text)
    return 0


def _seen(silent_seconds: float | None, draining: bool) -> str:
    seen = "never" if silent_seconds is None else f"{silent_seconds:.0f} s ago"
    return f"{seen}, draining" if draining else seen


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _print(arguments: argparse.Namespace, document: object, text: str) -> None:
    print(json.dumps(document) if arguments.json else text)
