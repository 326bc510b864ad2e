"""`dcctl hosts`: show the members of the farm, or let one take no builds.

Show each member of the farm with its state, the builds that it drives and for how many it has slots, its
labels, what is wrong with it (its clock, its version of dcd), where the labels that are granted differ from
those that are there, and the builds that wait because no member may take them. Versions are shown when they
differ, with the digest of the code of checkpoints. `dcctl hosts drain HOST` lets a member take no more
builds, before maintenance for instance; those that it has move to others after their running checkpoints.
`dcctl hosts resume HOST` lets it take builds again. Both need the role administer. A member is lost when it
has been silent for `farm_lost_seconds`, and `never seen` before it has been started for the first time.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from urllib.parse import quote

from cli.client import ClientError, Json, request
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
    hosts = answer["hosts"]
    header = ["HOST", "STATE", "HEARD", "SLOTS", "LABELS", "BUILDS"]
    rows = [_row(each) for each in hosts]
    if len({(each["version"], each["code"]) for each in hosts if each["version"]}) > 1:
        header.insert(2, "DCD")
        for row, each in zip(rows, hosts, strict=True):
            row.insert(2, f"{each['version']} {each['code']}")
    print_table(header, rows, wrapped=True)
    for each in hosts:
        for note in (*each["warnings"], *_labels(each)):
            print(f"{printable(each['host'])}: {printable(note)}")
    reasons = Counter(each["reason"] for each in answer["waits"] if each["reason"])
    for reason, number in reasons.most_common():
        verb = "waits" if number == 1 else "wait"
        print(f"{count(number, 'build')} {verb}: {printable(reason)}")


def _row(host: Json) -> list[str]:
    slots = host["slots"]
    return [
        host["host"],
        host["state"],
        _heard(host["silent_seconds"]),
        "" if slots is None else f"{len(host['working'])}/{slots}",
        "+".join(label for label in host["labels"] if not label.startswith(HIDDEN)),
        " ".join(host["working"]),
    ]


def _labels(host: Json) -> Iterator[str]:
    """How the labels that are granted differ from those that are there."""
    if host["not_granted"]:
        yield f"{', '.join(host['not_granted'])} not granted: dcd farm member add"
    if host["not_found"]:
        yield f"{', '.join(host['not_found'])} granted, and not found there: dcd doctor"


def _heard(seconds: float | None) -> str:
    return "never" if seconds is None else f"{duration(seconds)} ago"
