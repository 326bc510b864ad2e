"""`dcctl cancel`: end a build permanently.

Stop the running checkpoint and end the build; it cannot be resumed. The layers of its completed
checkpoints are kept, for other builds to reuse.
"""

import argparse

from cli.client import build_path, request
from cli.commands.options import add_build
from cli.text import headline, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)


def run(args: argparse.Namespace) -> None:
    """Cancel; prints the state."""
    build = request(args.socket, "POST", build_path(args.build, "cancel"))
    if args.json:
        print_json(build)
    else:
        print(headline(build))
