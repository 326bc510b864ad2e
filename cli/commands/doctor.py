"""`dcctl doctor`: examine the host.

Examine the host on which the daemon runs: tools, layers, space, isolation, acceleration. Print a
remedy for each problem. Exit 11 when a requirement of builds is missing.
"""

import argparse

from cli.client import request
from cli.exit_codes import ExitCode
from cli.text import print_json, print_table, printable


def run(args: argparse.Namespace) -> int:
    """Print the checks, then the remedies."""
    answer = request(args.socket, "GET", "/v1/doctor")
    checks = answer["checks"]
    if args.json:
        print_json(answer)
    else:
        rows = [(check["status"], check["name"], check["value"]) for check in checks]
        print_table(("STATUS", "CHECK", "VALUE"), rows, wrapped=True)
        remedies = [check for check in checks if check["status"] != "ok" and check["remedy"]]
        if remedies:
            print()
        for check in remedies:
            print(f"{printable(check['name'])}: {printable(check['remedy'])}")
    missing = any(check["status"] == "missing" for check in checks)
    return ExitCode.UNPREPARED if missing else ExitCode.OK
