"""`dcctl rebuild`: build an image again, without network, and compare.

Rebuild a completed build, or one that another server has exported, from the packages, files and the
time that it used, without reuse and without network, and compare the products. The answer is GOOD (exit
0) when all are identical, and the daemon then delivers NAME.rebuild.json, signed if it has a key; or BAD
(exit 26) with the first checkpoint that differs and what was not the same before. Booting is left out: it
makes no products. With --key, the export's provenance has to be signed by that key. Exit code 27: the
export is altered.
"""

import argparse
import sys
from pathlib import Path

from cli.client import Json, build_path, request
from cli.exit_codes import ExitCode
from cli.follow import follow_build
from cli.text import count, print_json, print_table, printable

SHOWN_FILES = 20


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="BUILD|FILE",
        help="the id of a build, or a file that dcctl export has written (its name has a dot or a slash)",
    )
    parser.add_argument(
        "--key", metavar="PEM", type=Path, help="the public key of the export's publisher"
    )


def run(args: argparse.Namespace) -> int:
    """Rebuild, wait, and print the verdict."""
    if "/" in args.target or "." in args.target:
        from cli.importing import import_export  # starts openssl, which other commands do not need

        build = import_export(args.socket, Path(args.target), args.key)
    else:
        build = request(args.socket, "POST", build_path(args.target, "rebuild"))
    print(f"the rebuild is {printable(build['id'])}", file=sys.stderr, flush=True)
    if code := follow_build(args.socket, build, stream=sys.stderr, quiet=True):
        return code
    found = request(args.socket, "GET", build_path(build["id"], "verdict"))
    if args.json:
        print_json(found)
    else:
        _print(found)
    return ExitCode.OK if found["good"] else ExitCode.BAD


def _print(found: Json) -> None:
    verdict = "GOOD" if found["good"] else "BAD"
    print(f"{verdict}: build {printable(found['build'])}, rebuilt as {printable(found['rebuild'])}")
    rows = [
        (
            each["name"],
            "identical" if each["sha256"] == each["expected_sha256"] else "differs",
            each["expected_sha256"][:16] or "none",
            each["sha256"][:16] or "none",
        )
        for each in found["products"]
    ]
    print_table(("PRODUCT", "", "EXPECTED", "REBUILT"), rows)
    if found["checkpoint"]:
        print(f"\nThe first checkpoint with another result is {printable(found['checkpoint'])}.")
    if found["files"]:
        shown = [(each["path"], ", ".join(each["kinds"])) for each in found["files"][:SHOWN_FILES]]
        print_table(("FILE", "DIFFERS IN"), shown)
        if found["different_files"] > len(shown):
            print(f"and {count(found['different_files'] - len(shown), 'more file')}")
    elif found["unknown"]:
        print(printable(found["unknown"]))
    for title, name in (
        ("Not the same as for the build", "changed"),
        ("Checked", "checked"),
        ("Not checked", "unchecked"),
    ):
        if found.get(name):
            print(f"\n{title}:")
            for text in found[name]:
                print(f"  {printable(text)}")
