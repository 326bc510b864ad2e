"""`dcctl diff`: show the differences between two builds.

Print what differs between two builds: packages with their versions, the manifest, the files that it
names, the products with their sizes, the files of the image by content, and how the checkpoints
ended, with the evidence of boots. The exit code is 0 whether there are differences or not.
"""

import argparse

from cli.client import Json, build_path, request
from cli.exit_codes import ExitCode
from cli.text import coloured, count, duration, print_json, print_table, printable, size

SHOWN_FILES = 50


def configure(parser: argparse.ArgumentParser) -> None:
    text = "a build's id or a unique prefix of it"
    parser.add_argument("build", metavar="BUILD", help=text)
    parser.add_argument("other", metavar="OTHER", help=text)
    parser.add_argument(
        "--all", action="store_true", help=f"name all files, not only the first {SHOWN_FILES}"
    )


def run(args: argparse.Namespace) -> int:
    """Compare."""
    answer = request(args.socket, "GET", build_path(args.build, "diff", args.other))
    if args.json:
        print_json(answer)
        return ExitCode.OK
    print(printable(f"{answer['first']} and {answer['second']}"))
    for title, key in (("PACKAGE", "packages"), ("PARAMETER", "parameters"), ("INPUT", "inputs")):
        _print_changed(title, answer[key], digests=key == "inputs")
    if answer["manifest"]:
        print("\nMANIFEST")
        for line in answer["manifest"][2:]:
            word = {"+": "ok", "-": "error"}.get(line[:1], "")
            print(coloured(printable(line), word))
    _print_products(answer["products"])
    _print_files(answer, most=None if args.all else SHOWN_FILES)
    _print_runs(answer["checkpoints"])
    for line in answer["unknown"]:
        print(printable(f"not compared: {line}"))
    return ExitCode.OK


def _print_changed(title: str, changed: list[Json], *, digests: bool) -> None:
    width = 12 if digests else None
    rows = [
        (each["name"], each["first"][:width] or "none", each["second"][:width] or "none")
        for each in changed
    ]
    if rows:
        print()
        print_table((title, "FIRST", "SECOND"), rows)


def _print_products(products: list[Json]) -> None:
    rows = [
        (each["name"], _size(each["first_bytes"]), _size(each["second_bytes"]), _grown(each))
        for each in products
        if not each["identical"]
    ]
    if rows:
        print()
        print_table(("PRODUCT", "FIRST", "SECOND", "CHANGE"), rows, right=(1, 2, 3))
    if products and not rows:
        print("\nall products are identical")


def _size(size_bytes: int | None) -> str:
    return "none" if size_bytes is None else size(size_bytes)


def _grown(product: Json) -> str:
    sizes = (product["first_bytes"], product["second_bytes"])
    if None in sizes:
        return ""
    change = sizes[1] - sizes[0]
    return f"{'-' if change < 0 else '+'}{size(abs(change))}" if change else "content"


def _print_files(answer: Json, most: int | None) -> None:
    number, shown = answer["different_files"], answer["files"][:most]
    if not number:
        return
    print(printable(f"\n{count(number, 'file')} after {answer['compared']}:"))
    print_table(("DIFFERS IN", "FILE"), [(", ".join(f["kinds"]), f["path"]) for f in shown])
    if number > len(shown):
        print(f"and {number - len(shown)} more (--all)")


def _print_runs(checkpoints: list[Json]) -> None:
    rows = [
        (each["name"], _ran(each["first"]), _ran(each["second"]))
        for each in checkpoints
        if _outcome(each["first"]) != _outcome(each["second"])
        or any(run and run["evidence"] for run in (each["first"], each["second"]))
    ]
    if rows:
        print()
        print_table(("CHECKPOINT", "FIRST", "SECOND"), rows, wrapped=True)


def _outcome(run: Json | None) -> str:
    if run is None:
        return "none"
    return "done" if run["state"] in ("completed", "reused") else str(run["state"])


def _ran(run: Json | None) -> str:
    if run is None:
        return "none"
    parts = [run["state"], duration(run["seconds"]), run["error"]]
    return ", ".join(part for part in parts if part)
