"""`dcctl version`: of dcctl and of the daemon."""

import argparse

from cli.client import ClientError, request
from cli.exit_codes import ExitCode
from cli.text import local_time, print_error, print_json, printable

HELP = "print the versions of dcctl and of the daemon"
DESCRIPTION = (
    "Print the version of dcctl and of the daemon. When no daemon answers, dcctl's own is printed all "
    "the same, and the exit code is that of the error."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    """Print both; with --json an object with `client` and `daemon`, which may be null."""
    try:
        daemon, failure = request(args.socket, "GET", "/v1/version"), None
    except ClientError as error:
        daemon, failure = None, error
    if args.json:
        print_json({"client": client_version(), "daemon": daemon})
    else:
        print(f"dcctl {client_version()}")
        if daemon:
            since = local_time(daemon["started_at"])
            print(f"dcd {printable(daemon['version'])}, API {printable(daemon['api'])}")
            print(
                f"  process {daemon['pid']} since {since}, state in {printable(daemon['state_dir'])}"
            )
    if failure is None:
        return ExitCode.OK
    if not args.json:
        print_error(failure)
    return failure.exit_code


def client_version() -> str:
    """The version of the installed package that this module is of."""
    # Slow to import, and no other command needs it.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dcd")
    except PackageNotFoundError:
        return "(not installed)"
