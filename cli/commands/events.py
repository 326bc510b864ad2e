"""`dcctl events`: print the events of a build.

Print the events of a build from the event log, oldest first: position, time, type, user (dcd: the
daemon itself) and data; with --json one object per line. With --follow, continue until the build
ends, fails or is paused; the exit code is that of its state. With --verify, verify the chain of
hashes instead; exit 1 on a mismatch.
"""

import argparse

from cli.client import Json, build_path, request
from cli.commands.options import add_build
from cli.exit_codes import AT_REST, ExitCode
from cli.stream import events, follow
from cli.text import count, event_summary, local_time, print_json, printable


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument(
        "--after",
        metavar="POSITION",
        type=int,
        default=0,
        help="start after this position of the log",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--follow", action="store_true", help="continue until the build ends, fails or is paused"
    )
    what.add_argument("--verify", action="store_true", help="verify the events instead")


def run(args: argparse.Namespace) -> int:
    """Print, follow or verify."""
    if args.verify:
        return _verify(args)
    if not args.follow:
        for event in events(args.socket, args.build, args.after):
            _print_event(event, args.json)
        return ExitCode.OK
    build = request(args.socket, "GET", build_path(args.build))["id"]
    for message in follow(args.socket, build, after=args.after):
        if message.kind == "event":
            _print_event(message.data, args.json)
    state = request(args.socket, "GET", build_path(build))["state"]
    return AT_REST.get(state, ExitCode.OK)


def _print_event(event: Json, as_json: bool) -> None:
    if as_json:
        print_json(event)
        return
    kind, user, summary = event["type"], event["actor"]["user"], event_summary(event["data"])
    line = f"{event['position']:>6}  {local_time(event['time'])}  {kind:<21}  {user:<8}  {summary}"
    print(printable(line).replace("\n", " ").rstrip(), flush=True)


def _verify(args: argparse.Namespace) -> int:
    answer = request(args.socket, "GET", build_path(args.build, "events", "verify"))
    if args.json:
        print_json(answer)
    else:
        verdict = "intact" if answer["ok"] else "NOT intact"
        print(f"{printable(answer['build'])}: {count(answer['events'], 'event')}, {verdict}")
        for problem in answer["problems"]:
            print(f"  {printable(problem)}")
    return ExitCode.OK if answer["ok"] else ExitCode.ERROR
