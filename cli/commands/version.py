"""`dcctl version`: print the versions of dcctl and of the daemon.

Print the version of dcctl and of the daemon. When no daemon answers, only dcctl's version is
printed, and the exit code is that of the error.
"""

import argparse

from cli.client import ClientError, request
from cli.exit_codes import ExitCode
from cli.text import local_time, print_error, print_json, printable
from cli.version import own_version


def run(args: argparse.Namespace) -> int:
    """Print both; with --json an object with `client` and `daemon`, which may be null."""
    try:
        daemon, failure = request(args.socket, "GET", "/v1/version"), None
    except ClientError as error:
        daemon, failure = None, error
    if args.json:
        print_json({"client": own_version(), "daemon": daemon})
    else:
        print(f"dcctl {own_version()}")
        if daemon:
            since = local_time(daemon["started_at"])
            print(f"dcd {printable(daemon['version'])}, API {printable(daemon['api'])}")
            print(
                f"  process {daemon['pid']} since {since}, state in {printable(daemon['state_dir'])}"
            )
            if daemon["version"] != own_version():
                print(
                    "dcctl and the daemon have different versions: install the same version of both"
                )
    if failure is None:
        return ExitCode.OK
    if not args.json:
        print_error(failure)
    return failure.exit_code
