"""`dcctl retry`: continue a failed build.

Run the failed checkpoint again, and then the remaining ones. The manifest and its files are those
of the submit: for a file that has changed since, a warning names the command that uses the change.
The same as `dcctl resume`, but refused for a build that is paused or has ended.
"""

import argparse

from cli.advice import warn_of_changes
from cli.client import build_path, request
from cli.commands.options import add_build, add_follow
from cli.follow import follow_if_asked
from cli.text import headline, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    add_follow(parser)


def run(args: argparse.Namespace) -> int:
    """Retry, and print the state."""
    build = request(args.socket, "POST", build_path(args.build, "retry"))
    if args.json:
        print_json(build)
    else:
        print(headline(build), flush=True)
        warn_of_changes(args.socket, build)
    return follow_if_asked(args, build)
