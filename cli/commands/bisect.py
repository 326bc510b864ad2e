"""`dcctl bisect`: find the changes that make a build fail.

The good build passed a test, the bad one did not. Find the smallest set of changes between them
(versions of packages, parts of the manifest, files that it names) that makes the test fail, with
builds in between. They use the packages that both builds captured and reuse their results. The test
is the checkpoint that failed, or the one that --test names; the build passes when it completes. The
same command continues an interrupted search where it stopped, and waits for a daemon that restarts.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from cli.client import ClientError, Json, Unreachable, build_path, request
from cli.exit_codes import ExitCode
from cli.minimal import BAD, GOOD, UNRESOLVED, minimal
from cli.stream import PATIENCE_SECONDS, follow
from cli.text import count, headline, print_json, printable

MOST_TEXT = 300


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("good", metavar="GOOD", help="the build that passed the test")
    parser.add_argument("bad", metavar="BAD", help="the build that did not")
    parser.add_argument(
        "--test", metavar="CHECKPOINT", help="the test (default: the checkpoint that failed)"
    )


def run(args: argparse.Namespace) -> int:
    """Search, and print the changes with their evidence."""
    between = _ask(args, None)
    changes, numbers = between["changes"], range(len(between["changes"]))
    _say(f"{count(len(changes), 'change')} between {between['good']} and {between['bad']}")
    tested: dict[tuple[int, ...], Json] = {}

    def test(chosen: Sequence[int]) -> str:
        result, build = _test(args, between["test"], chosen)
        tested[tuple(chosen)] = build
        _say(f"{len(chosen)} of {len(changes)} changes: {result} ({_shown(build)})")
        return result

    for expected, chosen in ((GOOD, ()), (BAD, tuple(numbers))):
        if (found := test(chosen)) != expected:
            raise _not_repeated(expected, found, between, tested[chosen])
    cause = minimal(numbers, test)
    build = tested[tuple(cause)]
    if args.json:
        print_json(
            {
                "good": between["good"],
                "bad": between["bad"],
                "test": between["test"],
                "changes": [changes[number] for number in cause],
                "build": build,
                "builds": len(tested),
            }
        )
        return ExitCode.OK
    print(f"{between['test']} fails with {count(len(cause), 'change')} of {len(changes)}:")
    for number in cause:
        _print_change(changes[number])
    print(f"tested with {count(len(tested), 'build')}; the last one with these changes:")
    print(printable(headline(build)))
    error = next((c["error"] for c in build["checkpoints"] if c["name"] == between["test"]), None)
    if error:
        print(printable(f"  {error['brief']}"))
    print(printable(f"Its log: dcctl logs {build['id']} {between['test']}"))
    return ExitCode.OK


def _ask(args: argparse.Namespace, take: Sequence[int] | None) -> Json:
    body = {"bad": args.bad, "test": args.test, "take": None if take is None else list(take)}
    return request(args.socket, "POST", build_path(args.good, "bisect"), body=body)


def _test(args: argparse.Namespace, name: str, chosen: Sequence[int]) -> tuple[str, Json]:
    """Build with the changes. Returns the result of the test, and the build ({} for a manifest that is
    invalid)."""
    try:
        build = _patiently(lambda: _ask(args, chosen))["build"]
    except Unreachable:
        raise
    except ClientError as error:
        if error.kind not in ("invalid-manifest", "unprepared", "not-found", "refused"):
            raise
        return UNRESOLVED, {"id": "", "reason": error.brief}
    for _ in follow(args.socket, build["id"]):
        pass
    path = build_path(build["id"])
    build = _patiently(lambda: request(args.socket, "GET", path))
    state = next(item["state"] for item in build["checkpoints"] if item["name"] == name)
    if build["state"] == "paused":
        # The test has passed, and nothing after it is of interest.
        _patiently(lambda: _cancel(args, build["id"]))
    if state in ("completed", "reused"):
        return GOOD, build
    return (BAD if state == "failed" else UNRESOLVED), build


def _cancel(args: argparse.Namespace, build: str) -> Json:
    try:
        return request(args.socket, "POST", build_path(build, "cancel"))
    except ClientError as error:
        if error.kind != "refused":  # it is cancelled already
            raise
        return {}


def _patiently(ask: Callable[[], Json]) -> Json:
    """The answer, also of a daemon that is being restarted. Asking again changes nothing."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except Unreachable:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def _not_repeated(expected: str, found: str, between: Json, build: Json) -> ClientError:
    which = "without any change" if expected == GOOD else "with all changes"
    return ClientError(
        "refused",
        f"the search cannot begin: {which} the test {between['test']} is {found}, not {expected}",
        f"{_shown(build)}; packages, manifest and files are the same as in build "
        f"{between['good' if expected == GOOD else 'bad']}",
        "the cause is outside of them: tools of this host, the time, or chance; see dcctl diff",
    )


def _print_change(change: Json) -> None:
    before, after = (change[key][:MOST_TEXT] or "none" for key in ("before", "after"))
    print(printable(f"  {change['kind']}  {change['what']}: {before} -> {after}"))


def _shown(build: Json) -> str:
    return f"build {build['id']}" if build["id"] else build["reason"]


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
