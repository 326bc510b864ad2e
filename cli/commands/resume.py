"""`dcctl resume`: continue a paused or failed build.

Continue a paused or failed build from where it stopped, or from an earlier checkpoint with --from.
With --manifest the build continues with an edited manifest and the present content of its files:
unchanged checkpoints at the start are kept, the others run again, and both are printed, with the
reason. Parameters and profiles are those of the submit, unless --set changes one or --profile selects
others. Without --manifest, manifest and files are those of the submit; a warning names the ones that
have changed. For a build that is pausing, the pause is withdrawn.
"""

import argparse

from cli.advice import warn_of_changes
from cli.capture import send
from cli.client import ClientError, Json, build_path, request
from cli.commands.options import (
    add_build,
    add_follow,
    add_parameters,
    add_pause_before,
    manifest_body,
)
from cli.follow import follow_if_asked
from cli.text import headline, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument(
        "--from",
        metavar="CHECKPOINT",
        dest="rewind_to",
        help="run this checkpoint, which must be completed or next, without reuse, and all after it",
    )
    add_pause_before(parser)
    parser.add_argument("--manifest", metavar="MANIFEST", help="continue with this manifest")
    add_parameters(parser)
    add_follow(parser)


def run(args: argparse.Namespace) -> int:
    """Resume, and print the state, and for a new manifest the kept and the rerun checkpoints."""
    if (args.parameters or args.profiles) and args.manifest is None:
        option = "--set" if args.parameters else "--profile"
        raise ClientError(
            "usage", f"{option} needs --manifest: it is about what a manifest declares"
        )
    body: dict[str, Json] = {"from": args.rewind_to, "pause_before": args.pause_before}
    path = build_path(args.build, "resume")
    if args.manifest is None:
        answer = request(args.socket, "POST", path, body=body)
    else:
        answer = send(args.socket, path, {**body, **manifest_body(args)})
    build = answer["build"]
    if args.json:
        print_json(answer)
    else:
        print(headline(build), flush=True)
        rows = [(name, "keep", "unchanged") for name in answer["kept"]]
        rows += [(item["name"], "run", item["reason"]) for item in answer["rerun"]]
        if rows:
            print_table(("CHECKPOINT", "ACTION", "REASON"), rows, wrapped=True)
        if args.manifest is None:
            warn_of_changes(args.socket, build)
    return follow_if_asked(args, build)
