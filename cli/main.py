"""dcctl: the command line.

Parses arguments, runs one command, and turns every error into a message on stderr and an exit code
(docs/reference/exit-codes.md). Starts quickly: neither this module nor a command module imports
anything that a short command does not need; rich and importlib.metadata are imported where they are
used.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

from cli.client import ClientError, default_socket
from cli.commands import NAMES
from cli.exit_codes import ExitCode
from cli.text import print_error, print_json_error, printable

SOCKET_HELP = "the daemon's socket (default: $DCD_SOCKET, or /run/dcd/dcd.sock)"
JSON_HELP = "print JSON, for scripts"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that suggests corrections for mistyped words.

    With `command_after_dashes`, the words after `--` go unchanged into `command`; argparse itself
    treats a positional of any length as empty when an option precedes it.
    """

    command_after_dashes = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse."""
        if not self.command_after_dashes or args is None or "--" not in args:
            return super().parse_known_args(args, namespace)
        dashes = args.index("--")
        found, unknown = super().parse_known_args(args[:dashes], namespace)
        found.command = args[dashes + 1 :]
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Exit with code 2, usage and the message."""
        if wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            from difflib import get_close_matches

            choices = re.findall(r"[\w-]+", wrong[2])
            if near := get_close_matches(wrong[1], choices, n=1):
                message += f"; did you mean '{near[0]}'?"
        super().error(message)


def build_parser() -> Parser:
    """The parser of all commands; also the source of the reference, man pages and completions."""
    parser = Parser(
        prog="dcctl",
        description="Build operating-system images with dcd, the distribution constructor daemon.",
        epilog="BUILD is a build's id or any unique prefix of it. Exit codes: docs/reference/exit-codes.md.",
        allow_abbrev=False,
    )
    parser.add_argument("--socket", metavar="PATH", default=default_socket(), help=SOCKET_HELP)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    shared = Parser(add_help=False)
    # No defaults here: they would override options before the command.
    shared.add_argument(
        "--socket", metavar="PATH", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    shared.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=JSON_HELP)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in NAMES:
        module = import_module(f"cli.commands.{name.replace('-', '_')}")
        summary, _, description = str(module.__doc__).partition("\n\n")
        command = commands.add_parser(
            name,
            help=summary.partition(": ")[2].rstrip("."),
            description=" ".join(description.split()),
            parents=[shared],
            allow_abbrev=False,
        )
        if hasattr(module, "configure"):
            module.configure(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run dcctl with these arguments (default: the process's). Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot encode must not abort the command.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        parser = build_parser()
        if not arguments:
            parser.print_help(sys.stderr)
            return ExitCode.USAGE
        return _run(parser.parse_args(command_first(arguments)))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader closed the pipe: `dcctl events ID | head`
        _abandon_output()
        return ExitCode.BROKEN_PIPE


def command_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with the command before its options: `dcctl --state failed list` is as good as
    `dcctl list --state failed`."""
    if not arguments[0].startswith("-"):
        return list(arguments)
    for index, word in enumerate(arguments):
        if word == "--":
            break
        if word in NAMES and (index == 0 or arguments[index - 1] != "--socket"):
            return [word, *arguments[:index], *arguments[index + 1 :]]
    return list(arguments)


def _run(args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args) or ExitCode.OK
        sys.stdout.flush()
    except ClientError as error:
        (print_json_error if args.json else print_error)(error)
        if getattr(args, "junit", None) or getattr(args, "summary", None):
            from cli.reports import write_refusal  # imports an XML library

            with suppress(OSError):  # the error itself is shown
                write_refusal(args, error)
        return error.exit_code
    except BrokenPipeError:
        raise
    except (
        OSError
    ) as error:  # errors of sockets and manifests are ClientErrors: this one comes from the output
        print(f"dcctl: error: {printable(str(error))}", file=sys.stderr)
        _abandon_output()
        return ExitCode.ERROR
    return code


def _abandon_output() -> None:
    """Discard buffered output, so that Python does not fail again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
