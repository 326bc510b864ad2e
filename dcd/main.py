"""The `dcd` command: the daemon itself, and commands for administrators.

Exit codes: those of docs/reference/exit-codes.md; under SMF (`--from-smf`) those of smf_method(7).
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from cli.commands.options import add_parameters
from dcd import farm_command
from statemachine.errors import DcdError

EXIT_CODES = {
    "usage": 2,
    "checkpoint-failed": 3,
    "refused": 6,
    "not-found": 7,
    "invalid-manifest": 8,
    "unavailable": 9,
    "too-many-requests": 9,
    "permission": 10,
    "unprepared": 11,
    "bad-key": 20,
}
"""The exit code for a `DcdError.problem`, as in dcctl; 1 for any other."""


def build_parser() -> argparse.ArgumentParser:
    """The command line of `dcd`."""
    parser = argparse.ArgumentParser(
        prog="dcd", description="The distribution constructor daemon.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"dcd {version('dcd')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the daemon in the foreground")
    serve.add_argument("--state-dir", type=_absolute, metavar="DIR", help="the state directory")
    serve.add_argument("--socket", type=_absolute, metavar="PATH", help="the socket of the daemon")
    source = serve.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
    source.add_argument(
        "--from-smf",
        action="store_true",
        help="take the settings from the SMF service's properties",
    )
    serve.add_argument(
        "--while-locked",
        type=_absolute,
        metavar="FILE",
        help="stop when no other process holds a lock on FILE (flock(2)) any more",
    )
    serve.set_defaults(run=_serve)

    manifest = commands.add_parser("smf-manifest", help="print the manifest of the SMF service")
    manifest.add_argument(
        "--prefix",
        type=_absolute,
        metavar="DIR",
        help="that of a package: DIR/bin/dcd, DIR/lib/svc-dcd, DIR/share/man; default: this installation",
    )
    manifest.set_defaults(run=_smf_manifest)

    restore = commands.add_parser(
        "restore", help="put a backup of the event log into a state directory"
    )
    restore.add_argument("backup", type=Path, metavar="FILE", help="a file written by dcctl backup")
    restore.add_argument(
        "--state-dir", type=_absolute, metavar="DIR", required=True, help="the new state directory"
    )
    restore.add_argument(
        "--force",
        action="store_true",
        help="replace an existing event log, which is kept under another name",
    )
    restore.set_defaults(run=_restore)

    shown = commands.add_parser("config", help="show the settings of a file, without a daemon")
    shown.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
    shown.add_argument("--from-smf", action="store_true", help="those of this SMF service")
    shown.add_argument("--json", action="store_true", help="print JSON")
    shown.set_defaults(run=_config)

    check = commands.add_parser("validate", help="check manifests, without a daemon")
    check.add_argument("files", metavar="FILE", nargs="+", help="a manifest file")
    add_parameters(check)
    check.add_argument(
        "--config", type=Path, metavar="FILE", help="the TOML file of the daemon's settings"
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_validate)

    doctor = commands.add_parser("doctor", help="examine this host, without a daemon")
    doctor.add_argument("--state-dir", type=Path, metavar="DIR")
    doctor.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the TOML file of the daemon's settings: its state directory, its key, its farm",
    )
    doctor.add_argument(
        "--packages", action="store_true", help="print only the Debian packages that are missing"
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--signing-key", metavar="FILE", help="examine this signing key too")
    doctor.add_argument(
        "--worker",
        choices=("auto", "namespaces", "portable"),
        help="examine the host for this kind of workers (the setting worker; default: auto)",
    )
    doctor.set_defaults(run=_doctor)

    farm_command.configure(commands)

    key = commands.add_parser("key", help="make a signing key, or show its public half")
    what = key.add_subparsers(required=True, metavar="new|show")
    new = what.add_parser("new", help="make a key in a new file, and print its public half")
    new.add_argument("file", type=Path, metavar="FILE", help="the file to make; it must not exist")
    new.set_defaults(run=_key, make=True)
    show = what.add_parser("show", help="print the public half of a key")
    show.add_argument("file", type=Path, metavar="FILE", help="the file of the key")
    show.set_defaults(run=_key, make=False)
    for each in (new, show):
        each.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except DcdError as error:
        print(f"dcd: {error}", file=sys.stderr)
        return EXIT_CODES.get(error.problem, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader closed the pipe: `dcd validate FILE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _serve(arguments: argparse.Namespace) -> int:
    from dcd import configuration
    from dcd.serve import serve

    options = {"state_dir": arguments.state_dir, "socket": arguments.socket}
    users = arguments.while_locked
    if not arguments.from_smf:
        named = ("--config", str(arguments.config)) if arguments.config else ()
        read = partial(configuration.load, arguments.config, options)
        _leave(serve(read, named, arguments.config, users))
    from dcd.configuration import smf

    try:
        _leave(serve(lambda: configuration.from_smf(smf.settings(), options), ("--from-smf",)))
    except DcdError as error:
        print(f"dcd: {error}", file=sys.stderr)
        return smf.exit_status(error)


def _leave(status: int) -> NoReturn:
    """End the process without waiting for its threads, one of which may be blocked forever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _config(arguments: argparse.Namespace) -> int:
    from dcd import configuration
    from dcd.configuration import smf

    found = (
        configuration.from_smf(smf.settings(), {})
        if arguments.from_smf
        else configuration.load(arguments.config)
    )
    rows = [
        (setting.name, configuration.plain(value), origin)
        for setting, value, origin in found.rows()
    ]
    if arguments.json:
        shown = {name: {"value": value, "origin": origin} for name, value, origin in rows}
        print(json.dumps(shown, indent=2))
        return 0
    width = max(len(name) for name, _, _ in rows)
    for name, value, origin in rows:
        print(f"{name:{width}}  {json.dumps(value)}  ({origin})")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from cli.client import ClientError
    from cli.text import print_diagnostics, print_error, print_json, printable, short_path
    from dcd import configuration
    from dcd.validate import Given, limit_memory, validate

    settings = configuration.load(arguments.config).configuration
    limit_memory(settings.planning_memory_bytes)
    checked = []
    try:
        given = Given(dict(arguments.parameters), tuple(sorted(set(arguments.profiles))))
        for path, valid, diagnostics in validate(arguments.files, given, settings):
            checked.append({"file": path, "ok": valid, "diagnostics": diagnostics})
            if not arguments.json:
                print_diagnostics(diagnostics, sys.stdout)
                if valid:
                    print(f"{printable(short_path(path))}: valid", flush=True)
    except ClientError as error:
        print_error(error, "dcd")
        return error.exit_code
    ok = all(each["ok"] for each in checked)
    if arguments.json:
        print_json({"ok": ok, "files": checked})
    return 0 if ok else EXIT_CODES["invalid-manifest"]


def _smf_manifest(arguments: argparse.Namespace) -> int:
    from dcd.configuration.smf import properties
    from smf.manifest import installed_manifest, packaged_manifest

    prefix = arguments.prefix
    text = packaged_manifest(prefix, properties()) if prefix else installed_manifest(properties())
    sys.stdout.write(text)
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from dcd.engine.backup import restore
    from dcd.serve import EVENTS, locked

    with locked(arguments.state_dir):
        events = arguments.state_dir / EVENTS
        events.mkdir(mode=0o700, exist_ok=True)
        try:
            count, kept = restore(arguments.backup, events, arguments.force)
        finally:
            if not any(events.iterdir()):
                events.rmdir()
    print(
        f"restored {count} event{'s' * (count != 1)} into {arguments.state_dir}; start the daemon to continue"
    )
    if kept is not None:
        print(f"the previous event log is {kept}")
    return 0


def _key(arguments: argparse.Namespace) -> int:
    from dcd.signing.keys import require_library

    require_library()
    from dcd.signing.new import new_key, shown_key

    public = new_key(arguments.file) if arguments.make else shown_key(arguments.file)
    if arguments.json:
        print(json.dumps({"key_id": public.key_id, "public_key": public.pem}))
    else:
        print(f"key id: {public.key_id}\n{public.pem}", end="")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from dcd import configuration, doctor

    if arguments.packages:
        print(" ".join(doctor.missing_packages()))
        return 0
    given = {name: getattr(arguments, name) for name in ("state_dir", "signing_key", "worker")}
    settings = configuration.load(arguments.config, given).configuration
    checks = doctor.examine(settings.state_dir, settings.signing_key, settings.worker)
    checks += farm_command.examined(settings)
    if arguments.json:
        import msgspec

        print(json.dumps(msgspec.to_builtins({"checks": checks}), indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.name:{width}}  {check.status:7}  {check.value}")
            if check.status != "ok" and check.remedy:
                print(f"{'':{width}}           {check.remedy}")
    return 11 if any(check.status == "missing" for check in checks) else 0


if __name__ == "__main__":
    sys.exit(main())
