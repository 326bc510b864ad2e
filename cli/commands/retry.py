"""`dcctl retry`: continue failed builds.

Run the failed checkpoint again, and then the remaining ones. The manifest and its files are those
of the submit: for a file that has changed since, a warning names the command that uses the change.
The same as `dcctl resume`, but refused for a build that is paused or has ended. If one of several
builds cannot be continued, the others still are, and the exit code is that of the first error. Of
several, none can be followed.
"""

import argparse
import sys

from cli.advice import warn_of_changes
from cli.client import ClientError, Json, build_path, request
from cli.commands.options import add_build, add_follow, wants_reports
from cli.exit_codes import ExitCode
from cli.follow import follow_if_asked
from cli.groups import follow_group, group_of, reported_group
from cli.several import for_each


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser, several=True)
    add_follow(parser)


def run(args: argparse.Namespace) -> int:
    """Retry each build, and print its state."""
    if args.follow and len(args.builds) > 1:
        raise ClientError(
            "usage", "several builds cannot be followed at once", "", "leave out --follow"
        )
    retried: list[Json] = []

    def retry(build: str) -> Json:
        view = request(args.socket, "POST", build_path(build, "retry"))
        retried.append(view)
        return view

    code = for_each(args, args.builds, retry, of_group=("failed",))
    if not args.json:
        for view in retried:
            warn_of_changes(args.socket, view)
    follows = args.follow or wants_reports(args)
    if follows and len(retried) > 1 and (group := group_of(args.socket, args.builds[0])):
        return code or reported_group(
            args, group, follow_group(args.socket, group, stream=sys.stderr, as_json=args.json)
        )
    return follow_if_asked(args, retried[0]) if retried and code == ExitCode.OK else code
