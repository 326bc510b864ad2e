"""`dcctl checkpoint-types`: list the checkpoints that a manifest may use.

List the checkpoints that a manifest may use: the project's, those of installed plug-ins and of the
modules that the configuration lists. With NAME, print its purpose, its arguments with their
defaults, types and meanings, and the tools that it needs. Names of the original, such as
solaris_install/transfer/cpio, are accepted.
"""

import argparse
import sys

from cli.client import ClientError, Json, request
from cli.text import print_json, print_table, printable


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="a checkpoint_class, a mod_path, or MOD_PATH:CLASS"
    )


def run(args: argparse.Namespace) -> None:
    """List all, or describe those with the name."""
    answer = request(args.socket, "GET", "/v1/checkpoint-types")
    types = [each for each in answer["types"] if args.name is None or _is_named(each, args.name)]
    if not types and args.name is not None:
        raise _unknown(args.name, answer["types"])
    if args.json:
        print_json({**answer, "types": types})
        return
    if args.name is None:
        rows = [(each["checkpoint_class"], each["mod_path"], each["description"]) for each in types]
        print_table(("CHECKPOINT_CLASS", "MOD_PATH", "DESCRIPTION"), rows, wrapped=True)
    for number, each in enumerate(types if args.name is not None else []):
        print("\n" * bool(number), end="")
        _describe(each)
    for problem in answer["problems"]:
        print(f"dcctl: warning: {printable(problem)}", file=sys.stderr)


def _is_named(each: Json, name: str) -> bool:
    names = {each["checkpoint_class"]}
    for place in (f"{each['mod_path']}:{each['checkpoint_class']}", *each["originals"]):
        names |= {place, place.partition(":")[0]}
    return name in names or name.replace(".", "/") in names


def _describe(each: Json) -> None:
    print(printable(f"{each['mod_path']}:{each['checkpoint_class']}"))
    for line in printable(each["documentation"]).splitlines():
        print(f"  {line}".rstrip())
    if each["arguments"]:
        print()
        print_table(
            ("ARGUMENT", "DEFAULT", "TAKES", "MEANING"),
            [
                (item["name"], _default(item), item["type"], item.get("meaning", ""))
                for item in each["arguments"]
            ],
            wrapped=True,
        )
    for word, names in (("Tools", each["tools"]), ("In the original", each["originals"])):
        if names:
            print(f"\n{word}: {printable(', '.join(names))}")


def _default(argument: Json) -> str:
    return "(required)" if argument["required"] else argument["default"] or ""


def _unknown(name: str, types: list[Json]) -> ClientError:
    from difflib import get_close_matches

    near = get_close_matches(name, [each["checkpoint_class"] for each in types], n=2)
    return ClientError(
        "not-found",
        f"there is no checkpoint {name}",
        "",
        f"did you mean {' or '.join(near)}?" if near else "dcctl checkpoint-types lists all",
    )
