"""`dcctl hosts`: show the members of the farm, or let one take no builds.

Show each member of the farm with its state, its labels and its builds, what is wrong with it (its clock,
its version of dcd), and the builds that wait because no member may take them. `dcctl hosts drain HOST` lets a
member take no more builds, before maintenance for instance; those that it has move to others after
their running checkpoints. `dcctl hosts resume HOST` lets it take builds again. Both need the role
administer. A member is lost when it has been silent for `farm_lost_seconds`.
"""

import argparse
from collections import Counter
from urllib.parse import quote

from cli.client import ClientError, request
from cli.text import count, duration, print_json, print_table, printable

HIDDEN = "tool:"
"""The beginning of labels that are only in --json: a host has many of them."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=("drain", "resume"), help="what to do with a host"
    )
    parser.add_argument("host", metavar="HOST", nargs="?", help="the name of the member")


def run(args: argparse.Namespace) -> None:
    """Show the hosts, after the change if there is one."""
    if args.action and not args.host:
        raise ClientError("usage", f"dcctl hosts {args.action} needs the name of a host", "", "")
    if args.action:
        path = f"/v1/hosts/{quote(args.host, safe='')}/{args.action}"
        answer = request(args.socket, "POST", path, body={})
    else:
        answer = request(args.socket, "GET", "/v1/hosts")
    if args.json:
        print_json(answer)
        return
    if not answer["hosts"]:
        print("this daemon is no member of a farm")
        return
    rows = [
        (
            each["host"],
            each["state"],
            _heard(each["silent_seconds"]),
            "+".join(label for label in each["labels"] if not label.startswith(HIDDEN)),
            " ".join(each["builds"]),
        )
        for each in answer["hosts"]
    ]
    print_table(("HOST", "STATE", "HEARD", "LABELS", "BUILDS"), rows, wrapped=True)
    for each in answer["hosts"]:
        for warning in each.get("warnings", ()):
            print(f"{printable(each['host'])}: {printable(warning)}")
    reasons = Counter(each["reason"] for each in answer.get("waits", ()) if each["reason"])
    for reason, number in reasons.most_common():
        verb = "waits" if number == 1 else "wait"
        print(f"{count(number, 'build')} {verb}: {printable(reason)}")


def _heard(seconds: float | None) -> str:
    return "never" if seconds is None else f"{duration(seconds)} ago"
