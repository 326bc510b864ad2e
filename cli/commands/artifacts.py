"""`dcctl artifacts`: list the files that a build delivered.

List the files that a build has delivered. Products are the same each time the build is repeated;
evidence of tests, such as console logs, differs. With --verify, check the digest of
each file; exit 1 when one is missing or changed.
"""

import argparse

from cli.client import build_path, request
from cli.commands.options import add_build
from cli.exit_codes import ExitCode
from cli.text import print_json, print_table, size


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument("--verify", action="store_true", help="check the digest of each file")


def run(args: argparse.Namespace) -> int:
    """List or verify."""
    if args.verify:
        return _verify(args)
    path = build_path(args.build, "artifacts")
    artifacts = request(args.socket, "GET", path)["artifacts"]
    if args.json:
        print_json(artifacts)
        return ExitCode.OK
    rows = [
        (
            size(item["size_bytes"]),
            item["format"],
            "evidence" if item.get("evidence") else "product",
            item["path"],
        )
        for item in artifacts
    ]
    print_table(("SIZE", "FORMAT", "KIND", "ARTIFACT"), rows, right=(0,))
    return ExitCode.OK


def _verify(args: argparse.Namespace) -> int:
    answer = request(args.socket, "POST", build_path(args.build, "artifacts", "verify"))
    if args.json:
        print_json(answer)
    else:
        rows = [
            (item["name"], "ok" if item["ok"] else "failed", item["problem"])
            for item in answer["artifacts"]
        ]
        print_table(("ARTIFACT", "STATUS", "PROBLEM"), rows)
    return ExitCode.OK if answer["ok"] else ExitCode.ERROR
