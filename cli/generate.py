"""Generating files from the parser when dcctl is packaged: completions, man page, reference.

    python -m cli.generate completions DIR    dcctl.bash, _dcctl (zsh) and dcctl.fish
    python -m cli.generate man DIR            dcctl.1
    python -m cli.generate reference DIR      dcctl.md, which is committed as docs/reference/dcctl.md

argparse-manpage is needed only here, at build time; dcctl itself never imports this module.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from cli.commands import NAMES
from cli.completion import SCRIPTS
from cli.main import build_parser
from cli.manual import sections

Generate = Callable[[argparse.ArgumentParser], dict[str, str]]
"""From the parser to texts by file name."""


def completions(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Completions for bash, zsh and fish."""
    names = {"bash": "dcctl.bash", "zsh": "_dcctl", "fish": "dcctl.fish"}
    return {name: SCRIPTS[shell] for shell, name in names.items()}


def man(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The manual page, section 1."""
    from argparse_manpage.manpage import Manpage

    page = Manpage(parser, {"manual_title": "dcd", "description": "client of the dcd daemon"})
    for heading, text in sections().items():
        page.add_section(heading, ">", text)
    return {"dcctl.1": f"{page}\n"}


_REFERENCE = """\
# dcctl

<!-- Made from the parser: python -m cli.generate reference docs/reference -->

{description} `dcctl` is a thin client: it reads files with your permissions and talks to
the daemon through its socket.

Each command takes `--json`, which prints JSON for scripts: a value on one line, or, for
a stream, one object per line. With `--json`, errors on stderr are JSON too. Colours
and status lines appear only on a terminal; `NO_COLOR` turns the colours off. Exit codes are
listed in [exit-codes.md](exit-codes.md), the fields of JSON objects in [api.md](api.md).

| option or variable | meaning |
|---|---|
| `--socket PATH` | the daemon's socket, before or after the command |
| `$DCD_SOCKET` | the same, when there is no `--socket` |
| neither | `/run/dcd/dcd.sock`; on illumos `/var/run/dcd/dcd.sock` |"""


def reference(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The reference of all commands, in Markdown."""
    lines = [_REFERENCE.format(description=parser.description)]
    for name, command in _commands(parser).items():
        lines += ["", f"## dcctl {name}", "", f"    {_synopsis(name, command)}", ""]
        lines += [str(command.description)]
        rows = [_row(action) for action in _arguments(command)]
        if rows:
            lines += ["", "| argument | meaning |", "|---|---|", *rows]
    return {"dcctl.md": "\n".join(lines) + "\n"}


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    # argparse has no public access to a parser's arguments; argparse-manpage does the same.
    subparsers = next(
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    return {name: subparsers.choices[name] for name in NAMES}


def _arguments(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """The command's own arguments, positional ones first."""
    shown = [
        action
        for action in command._actions
        if action.help != argparse.SUPPRESS and action.dest not in ("help", "json")
    ]
    return sorted(shown, key=lambda action: bool(action.option_strings))


def _synopsis(name: str, command: argparse.ArgumentParser) -> str:
    parts, after_dashes = [], []
    for action in _arguments(command):
        spelled = _spelled(action)
        if action.nargs == "+":
            parts.append(f"{spelled}...")
        elif action.nargs == "*" and action.dest != "command":
            parts.append(f"[{spelled}...]")
        elif action.nargs == "*":
            after_dashes.append(f"[-- {spelled}...]")
        else:
            optional = action.option_strings or action.nargs == "?"
            parts.append(f"[{spelled}]" if optional else spelled)
    return " ".join(["dcctl", name, *parts, *after_dashes])


def _spelled(action: argparse.Action) -> str:
    metavar = action.metavar or "|".join(map(str, action.choices or ()))
    return " ".join(filter(None, [*action.option_strings, str(metavar) if metavar else ""]))


def _row(action: argparse.Action) -> str:
    text = str(action.help)
    if action.metavar and action.choices:
        text += f" ({', '.join(map(str, action.choices))})"
    return f"| `{_spelled(action).replace('|', chr(92) + '|')}` | {text} |"


KINDS: dict[str, Generate] = {"completions": completions, "man": man, "reference": reference}


def main() -> int:
    """Write the files of one kind."""
    parser = argparse.ArgumentParser(prog="python -m cli.generate")
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("directory", type=Path)
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    for name, text in KINDS[args.kind](build_parser()).items():
        (args.directory / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
