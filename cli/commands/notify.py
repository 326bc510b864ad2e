"""`dcctl notify`: show or test the webhooks.

Show the webhooks of the daemon's settings: whether each takes its events, why not, and how many wait. With
test, send a signed test delivery to one of them, or to all, and print the outcome; exit 1 if one fails. A
test that succeeds lets a failing webhook try its events at once. Testing needs the role administer.
"""

import argparse
from urllib.parse import quote

from cli.client import Json, request
from cli.exit_codes import ExitCode
from cli.text import duration, local_time, print_json, print_table, printable


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        metavar="ACTION",
        nargs="?",
        default="list",
        choices=("list", "test"),
        help="list (the default) or test",
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="the webhook to test (default: all)"
    )


def run(args: argparse.Namespace) -> int:
    """Show the states, or the outcomes of tests."""
    if args.action == "test":
        return _test(args)
    answer = request(args.socket, "GET", "/v1/webhooks")
    if args.json:
        print_json(answer)
    elif not answer["webhooks"]:
        print("no webhooks: add a table [[notify]] to the daemon's settings")
    else:
        rows = [_row(hook) for hook in answer["webhooks"]]
        header = ("WEBHOOK", "STATE", "HOST", "DELIVERED", "WAITING", "LAST", "ERROR")
        print_table(header, rows, right=(3, 4), wrapped=True)
    return ExitCode.OK


def _row(hook: Json) -> tuple[str, ...]:
    last = hook["last_delivery_at"]
    return (
        hook["name"],
        hook["state"],
        hook["host"],
        str(hook["delivered"]),
        str(hook["behind"]),
        local_time(last) if last else "",
        hook["error"],
    )


def _test(args: argparse.Namespace) -> int:
    if args.name is None:
        names = [hook["name"] for hook in request(args.socket, "GET", "/v1/webhooks")["webhooks"]]
    else:
        names = [args.name]
    outcomes = []
    for name in names:
        outcome = request(args.socket, "POST", f"/v1/webhooks/{quote(name, safe='')}/test")
        outcomes.append(outcome)
        if not args.json:
            said = (
                f"answered {outcome['status']}" if outcome["ok"] else f"failed: {outcome['error']}"
            )
            print(printable(f"{name}: {said} ({duration(outcome['seconds'])})"), flush=True)
    if args.json:
        print_json({"tests": outcomes})
    elif not outcomes:
        print("no webhooks: add a table [[notify]] to the daemon's settings")
    return ExitCode.OK if all(each["ok"] for each in outcomes) else ExitCode.ERROR
