"""`dcctl checkpoints`: list the checkpoints from which a build can be resumed.

List the checkpoints of a build and whether it can be resumed from each (`dcctl resume
--from`): from every completed one and from the next one, if the layers exist.
"""

import argparse

from cli.client import build_path, request
from cli.commands.options import add_build
from cli.text import print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)


def run(args: argparse.Namespace) -> None:
    """Print the list, with the columns of the original's -l."""
    answer = request(args.socket, "GET", build_path(args.build, "checkpoints"))
    checkpoints = answer["checkpoints"]
    if args.json:
        print_json(checkpoints)
        return
    rows = [
        (item["name"], "yes" if item["resumable"] else "no", item["description"])
        for item in checkpoints
    ]
    print_table(("CHECKPOINT", "RESUMABLE", "DESCRIPTION"), rows, wrapped=True)
