"""`dcctl validate`: check a manifest.

Print all errors and warnings of a manifest in the style of a compiler, with reasons and
corrections. With --matrix it is checked for each combination of the values. Nothing is built. Exit 8 when
there are errors; warnings alone are no error.
"""

import argparse
import sys

from cli.capture import send
from cli.client import ClientError
from cli.commands.options import add_locked, add_manifest, add_matrix
from cli.exit_codes import ExitCode
from cli.groups import matrix_request
from cli.text import print_diagnostics, print_json, printable, short_path


def configure(parser: argparse.ArgumentParser) -> None:
    add_manifest(parser)
    add_locked(parser, offline=False)
    add_matrix(parser)


def run(args: argparse.Namespace) -> int:
    """Validate. The diagnostics are the output, so they go to stdout."""
    try:
        answer = send(args.socket, *matrix_request(args, "validate"))
    except ClientError as error:
        if not error.diagnostics:
            raise
        answer = {"ok": False, "diagnostics": error.diagnostics}
    if args.json:
        print_json({"ok": answer["ok"], "diagnostics": answer["diagnostics"]})
    else:
        print_diagnostics(answer["diagnostics"], sys.stdout)
        if answer["ok"]:
            print(f"{printable(short_path(args.manifest))}: valid")
    return ExitCode.OK if answer["ok"] else ExitCode.INVALID_MANIFEST
