"""`dcctl completion`: print the completion of a shell.

Print a script for bash, zsh or fish that completes commands, options, ids of builds, checkpoints and
artifacts, as they are when the key is pressed: `source <(dcctl completion bash)` in ~/.bashrc, the same
with zsh in ~/.zshrc, `dcctl completion fish | source` in config.fish. The Debian package installs them.
"""

import argparse

from cli.client import ClientError
from cli.completion import SCRIPTS, candidates
from cli.text import print_json, printable


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shell", metavar="SHELL", nargs="?", choices=tuple(SCRIPTS), help="bash, zsh or fish"
    )
    parser.add_argument("--words", metavar="INDEX", type=int, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", metavar="COMMAND", help=argparse.SUPPRESS)
    parser.command_after_dashes = True  # type: ignore[attr-defined]


def run(args: argparse.Namespace) -> None:
    """Print the script, or what a script asks for: each word with its meaning, behind a tab."""
    if args.words is None and args.shell is None:
        raise ClientError("usage", "no shell is named", "", f"dcctl completion {'|'.join(SCRIPTS)}")
    if args.words is None:
        if args.json:
            print_json({"shell": args.shell, "script": SCRIPTS[args.shell]})
        else:
            print(SCRIPTS[args.shell], end="")
        return
    from cli.main import build_parser

    for word, meaning in candidates(build_parser(), args.command, args.words):
        print(f"{printable(word)}\t{printable(meaning)}")
