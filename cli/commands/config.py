"""`dcctl config`: show or reload the daemon's settings.

Show every effective setting of the daemon and its origin: a line of the file, an SMF property, the
environment, an option, or the default. A changed value that takes effect only with a restart is
shown below. With --reload, the daemon reads its settings again, like `systemctl reload dcd` and
`svcadm refresh dcd`; builds continue. If a setting is wrong, nothing changes. Needs the role
administer.
"""

import argparse
import json

from cli.client import Json, request
from cli.exit_codes import ExitCode
from cli.text import print_json, print_table, printable


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reload",
        action="store_true",
        help="read the settings again; print which changed and which wait for a restart",
    )


def run(args: argparse.Namespace) -> int:
    """Print the settings, or the result of a reload."""
    if args.reload:
        return _reload(args)
    answer = request(args.socket, "GET", "/v1/config")
    if args.json:
        print_json(answer)
        return ExitCode.OK
    settings = answer["settings"]
    rows = [(item["name"], _shown(item["value"]), item["origin"]) for item in settings]
    print_table(("SETTING", "VALUE", "FROM"), rows)
    waiting = [item for item in settings if item["waiting"]]
    if waiting:
        print("\nAfter a restart:")
    for item in waiting:
        value, origin = _shown(item["waiting"]["value"]), item["waiting"]["origin"]
        print(printable(f"  {item['name']} = {value}  ({origin})"))
    return ExitCode.OK


def _reload(args: argparse.Namespace) -> int:
    answer = request(args.socket, "POST", "/v1/reload")
    if args.json:
        print_json(answer)
        return ExitCode.OK
    print(f"changed: {printable(', '.join(answer['changed'])) or 'nothing'}")
    if answer["waiting"]:
        print(f"wait for a restart: {printable(', '.join(answer['waiting']))}")
    return ExitCode.OK


def _shown(value: Json) -> str:
    """A value as in the TOML file."""
    if isinstance(value, dict):
        pairs = ", ".join(f"{json.dumps(key)} = {json.dumps(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return json.dumps(value, ensure_ascii=False)
