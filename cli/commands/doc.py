"""`dcctl doc`: print the data object cache of a build.

Print the DOC of a build as XML: the content of its manifest and the results of its checkpoints,
after the last completed one or after the one that --at names. With PATH, print only the objects and
attributes that this path string selects, such as //boot_mods or //distro.name: objects as XML,
attributes as values, one per line.
"""

import argparse
import json

from cli.client import Json, build_path, request
from cli.commands.options import add_build
from cli.text import print_json, print_text


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument("path", metavar="PATH", nargs="?", help="a path string into the DOC")
    parser.add_argument("--at", metavar="CHECKPOINT", help="the DOC after this checkpoint")


def run(args: argparse.Namespace) -> None:
    """Print it."""
    query = {"at": args.at, "path": args.path}
    answer = request(args.socket, "GET", build_path(args.build, "doc"), query=query)
    if args.json:
        print_json(answer)
        return
    for match in answer["matches"]:
        text = _written(match["value"]) if match["path"] is None else match["xml"].rstrip("\n")
        print_text(text)


def _written(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
