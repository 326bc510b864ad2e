"""`dcctl cancel`: end builds permanently.

Stop the running checkpoint and end the build; it cannot be resumed. The layers of its completed
checkpoints are kept, for other builds to reuse. If one of several builds cannot be cancelled, the
others still are, and the exit code is that of the first error.
"""

import argparse

from cli.client import build_path, request
from cli.commands.options import add_build
from cli.several import for_each


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser, several=True)


def run(args: argparse.Namespace) -> int:
    """Cancel each build; prints the states."""
    return for_each(
        args,
        args.builds,
        lambda build: request(args.socket, "POST", build_path(build, "cancel")),
        of_group=("queued", "running", "pausing", "paused", "failed", "cancelling"),
    )
